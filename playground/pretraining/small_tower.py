"""What the small vision towers have in common: where they start from, what they read, and where they look."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, PreTrainedModel, SiglipVisionConfig, SiglipVisionModel

from llava.model.multimodal_encoder.features import saliency_of_layers

TowerName = Literal["clip", "siglip"]
VisionConfig = CLIPVisionConfig | SiglipVisionConfig

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def tower_config(arguments: Namespace, size: int, grid: int, kind: TowerName = "clip") -> VisionConfig:
    """Of a tower as wide and deep as the flags say, for pictures of `size` pixels in `grid` x `grid` patches."""
    sizes = {
        "hidden_size": arguments.width,
        "intermediate_size": 4 * arguments.width,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.heads,
        "image_size": size,
        "patch_size": size // grid,
    }
    if kind == "siglip":
        return SiglipVisionConfig(**sizes)
    return CLIPVisionConfig(**sizes, projection_dim=arguments.width)


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
def saliency(tower: nn.Module, pixels: Tensor) -> Tensor:
    """(B, P): what VisionZip chooses by at layer -2: the attention of CLS, or what a patch receives of all others."""
    return saliency_of_layers(tower, pixels, (-2,))[0]


def rate(step: int, total: int, top: float, warm: int = 100) -> float:
    """Gives the learning rate of a step: a linear rise, then a cosine to a hundredth."""
    if step < warm:
        return top * (step + 1) / warm
    return top * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))))


def save_processor(folder: Path, size: int, kind: TowerName = "clip") -> None:
    """Writes how a picture is made ready for the tower: as its kind does, at the tower's size, with CLIP's means."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    square = {"height": size, "width": size}
    if kind == "siglip":
        settings |= {"image_processor_type": "SiglipImageProcessor", "size": square}
    else:
        settings |= {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": size}}
        settings |= {"do_center_crop": True, "crop_size": square}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def save_tower(output: Path, tower: PreTrainedModel, found: Mapping[str, float], size: int) -> None:
    """Writes `tower.json`, what was measured, and the folder `tower` with the processor of its pictures."""
    (output / "tower.json").write_text(json.dumps(found, indent=2) + "\n")
    save_processor(output / "tower", size, "siglip" if isinstance(tower, SiglipVisionModel) else "clip")
    tower.save_pretrained(output / "tower")
    print(json.dumps(found))
