"""Which patches of a tile show nothing but the border that made the picture square."""

from __future__ import annotations

import torch
from torch import Tensor


def content_box(image_size: tuple[int, int], tile_size: int) -> tuple[int, int, int, int]:
    """Where the picture lies in a tile that was padded as LLaVA does, then resized.

    Args:
        image_size: (w, h), before padding.
        tile_size: Pixels of a side of the tile.

    Returns:
        Left, top, right and bottom, in whole pixels of the tile.
    """
    width, height = image_size
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    left, top, right, bottom = (round(edge * tile_size / side) for edge in (left, top, left + width, top + height))
    return left, top, right, bottom


def padding_patches(image_size: tuple[int, int], grid: tuple[int, int], tile_size: int) -> Tensor:
    """Patches that lie wholly in the border.

    Args:
        image_size: (w, h), before padding.
        grid: (h, w), the patches' rows and columns.
        tile_size: Pixels of a side of the tile.

    Returns:
        (P,), bool, on the CPU.
    """
    left, top, right, bottom = content_box(image_size, tile_size)
    rows = _outside(grid[0], tile_size // grid[0], top, bottom)
    columns = _outside(grid[1], tile_size // grid[1], left, right)
    return (rows.unsqueeze(1) | columns).flatten()


def _outside(count: int, patch_size: int, low: int, high: int) -> Tensor:
    """(count,): which of the patches along a side end before `low` or begin after `high`."""
    begin = torch.arange(count) * patch_size
    return (begin + patch_size <= low) | (begin >= high)
