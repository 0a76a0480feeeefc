"""What is known of tiles beside their pixels: which image each belongs to, and which patches are padding."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, TypedDict

import torch
from torch import Tensor

from llava.images.rules import aspect_ratio_of
from llava.model.multimodal_compressor.registry import Need
from llava.model.multimodal_encoder import tower_grid
from llava.model.padding import padding_patches


class TileFacts(TypedDict, total=False):
    """Fields of `VisionFeatures` of the same names, T tiles in the first axis; those that nobody needs are left out."""

    image_index: Tensor
    padding: Tensor


def tile_facts(
    config: Any,
    needs: Set[Need],
    num_tiles: int,
    counts: Sequence[int] | None,
    image_sizes: Sequence[tuple[int, int]] | None,
    device: torch.device,
) -> TileFacts:
    """The facts that a compressor needs.

    Args:
        config: Of the model.
        needs: Of the compressor.
        num_tiles: T.
        counts: Tiles of each image; None if each is a single tile.
        image_sizes: (w, h) of each image; None if they are not known.
        device: Where they shall be.
    """
    facts: TileFacts = {}
    if "image_index" in needs:
        index = range(num_tiles) if counts is None else [i for i, count in enumerate(counts) for _ in range(count)]
        facts["image_index"] = torch.tensor(list(index), device=device)
    if "padding" in needs:
        facts["padding"] = _padding(config, num_tiles, image_sizes).to(device)
    return facts


def _padding(config: Any, num_tiles: int, image_sizes: Sequence[tuple[int, int]] | None) -> Tensor:
    """(T, P), bool. Nothing counts as padding in tiles of a grid, nor where an image's size is not known."""
    grid = tower_grid(config.vision_config)
    if image_sizes is None or len(image_sizes) != num_tiles or aspect_ratio_of(config) != "pad":
        return torch.zeros(num_tiles, grid[0] * grid[1], dtype=torch.bool)
    return torch.stack([padding_patches(size, grid, config.vision_config.image_size) for size in image_sizes])


def pad_facts(facts: TileFacts, num_tiles: int) -> TileFacts:
    """The facts of tiles with blank ones behind them, which belong to no image.

    Args:
        facts: Of T tiles.
        num_tiles: At least T.
    """
    padded: TileFacts = {}
    if "image_index" in facts:
        index = facts["image_index"]
        padded["image_index"] = torch.cat([index, torch.arange(len(index), num_tiles, device=index.device)])
    if "padding" in facts:
        more = facts["padding"].new_zeros(num_tiles - len(facts["padding"]), facts["padding"].shape[1])
        padded["padding"] = torch.cat([facts["padding"], more])
    return padded
