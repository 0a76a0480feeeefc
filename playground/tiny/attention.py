"""Where the attention of the tower's layer -2 goes, which is what VisionZip chooses by."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scenes import GRID, PATCH, enlarge, load_block, patch_targets, render, sample_scenes
from torch import Tensor
from transformers import AutoModel

from playground.pretraining.small_tower import saliency, to_pixels

COUNTS = (8, 16, 24, 40, 82)


def report(row: Tensor, is_digit: Tensor) -> dict[str, float]:
    """Says what share of the attention falls on digits, and what share of digit patches each count of patches holds."""
    found = {"attention_on_digits": ((row * is_digit).sum() / row.sum()).item()}
    for count in COUNTS:
        kept = torch.zeros_like(is_digit).scatter(1, row.topk(count, 1).indices, True)
        found[f"recall_{count}"] = ((kept & is_digit).sum() / is_digit.sum()).item()
    return {name: round(value, 4) for name, value in found.items()}


def picture(images: np.ndarray, row: Tensor, path: Path, count: int = 16) -> None:
    """Draws scenes above what the `count` patches with most attention show of them."""
    kept = torch.zeros_like(row, dtype=torch.bool).scatter(1, row.topk(count, 1).indices, True)
    mask = kept.view(-1, GRID, GRID).numpy().repeat(PATCH, 1).repeat(PATCH, 2)[..., None]
    below = np.where(mask, images, 255 - (255 - images) // 4)
    rows = [np.concatenate(list(part), 1) for part in (images, below.astype(np.uint8))]
    Image.fromarray(np.concatenate(rows, 0)).save(path)


def inspect(arguments: Namespace) -> None:
    """Prints the figures on scenes of held-out digits, and draws some if a picture is asked for."""
    rng, block = np.random.default_rng(arguments.seed), load_block(True)
    scenes = sample_scenes(rng, block, arguments.scenes)
    images = render(rng, scenes, enlarge(block.images[scenes.sources]))
    row = saliency(AutoModel.from_pretrained(arguments.tower).eval(), to_pixels(images))
    print(json.dumps(report(row, torch.from_numpy(patch_targets(scenes)[0]) < 10)))
    if arguments.picture:
        picture(images[:8], row[:8], arguments.picture)
