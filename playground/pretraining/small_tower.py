"""What the small CLIP towers have in common: where they start from, what they read, and where their CLS token looks."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def tower_config(arguments: Namespace, size: int, grid: int) -> CLIPVisionConfig:
    """Of a CLIP tower as wide and deep as the flags say, for pictures of `size` pixels in `grid` x `grid` patches."""
    return CLIPVisionConfig(
        hidden_size=arguments.width,
        intermediate_size=4 * arguments.width,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        image_size=size,
        patch_size=size // grid,
        projection_dim=arguments.width,
    )


def place_codes(width: int, grid: int) -> Tensor:
    """Gives (1 + P, C) sine codes of row and column to start the position embedding from; zero for CLS."""
    count = width // 4
    angle = torch.arange(grid)[:, None] * torch.exp(-math.log(30.0) * torch.arange(count) / count)
    line = torch.cat([angle.sin(), angle.cos()], 1)
    codes = torch.cat([line[:, None].expand(-1, grid, -1), line[None].expand(grid, -1, -1)], -1)
    return 0.3 * torch.cat([torch.zeros(1, width), codes.reshape(grid * grid, width)])


def to_pixels(images: np.ndarray) -> Tensor:
    """Normalises (B, S, S, 3) uint8 images as CLIP's processor does, to (B, 3, S, S)."""
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@torch.no_grad()
def cls_attention(tower: CLIPVisionModel, pixels: Tensor) -> Tensor:
    """(B, P): attention that CLS pays to each patch at layer -2, summed over the heads."""
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers[:-2]:
        hidden = layer(hidden, None)
    layer = tower.encoder.layers[-2]
    attention = layer.self_attn
    hidden = layer.layer_norm1(hidden)
    shape = (len(hidden), -1, attention.num_heads, attention.head_dim)
    query = attention.q_proj(hidden[:, :1]).view(shape).transpose(1, 2)
    keys = attention.k_proj(hidden).view(shape).transpose(1, 2)
    return (query @ keys.transpose(-1, -2) * attention.scale).softmax(-1)[:, :, 0, 1:].sum(1)


def rate(step: int, total: int, top: float, warm: int = 100) -> float:
    """Gives the learning rate of a step: a linear rise, then a cosine to a hundredth."""
    if step < warm:
        return top * (step + 1) / warm
    return top * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))))


def save_processor(folder: Path, size: int) -> None:
    """Writes how a picture is made ready for the tower: CLIP's way, at the tower's size."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def save_tower(output: Path, tower: CLIPVisionModel, found: Mapping[str, float], size: int) -> None:
    """Writes `tower.json`, what was measured, and the folder `tower` with the processor of its pictures."""
    (output / "tower.json").write_text(json.dumps(found, indent=2) + "\n")
    save_processor(output / "tower", size)
    tower.save_pretrained(output / "tower")
    print(json.dumps(found))
