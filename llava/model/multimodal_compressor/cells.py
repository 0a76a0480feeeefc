"""Small grids of a tile: how many rows and columns K tokens have, and where in the tile they are."""

from __future__ import annotations

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.types import TileShape

_LONGEST = 2  # times the shorter side


def best_grid(num_cells: int, grid: tuple[int, int]) -> tuple[int, int]:
    """The (h, w) with h * w cells whose aspect is nearest to a tile's; of two that are as near, the wider one.

    Args:
        num_cells: K.
        grid: (h, w) of the tile.
    """
    best, least = (1, num_cells), (1, 0)  # least: how much longer one side is than the tile's, as a fraction
    for height in range(1, num_cells + 1):  # wider first
        if num_cells % height == 0:
            width = num_cells // height
            sides = width * grid[0], height * grid[1]
            if max(sides) * least[1] < least[0] * min(sides):
                best, least = (height, width), (max(sides), min(sides))
    return best


def check_grid(budget: CompressionConfig, tile: TileShape) -> None:
    """Refuses a number of tokens that makes no good grid, and shares of an image that differ from tile to tile.

    Raises:
        ValueError: With the nearest number below.
    """
    check_equal(budget)
    if not _is_good(budget.num_tokens, tile):
        below = next(count for count in range(budget.num_tokens - 1, 0, -1) if _is_good(count, tile))
        height, width = best_grid(budget.num_tokens, tile.grid)
        raise ValueError(
            f"compression {budget}: {budget.num_tokens} tokens are at best a grid of {height} x {width}, longer than "
            f"{_LONGEST}:1; the nearest number below is {below}"
        )


def check_equal(budget: CompressionConfig) -> None:
    """Refuses tiles that share an image's tokens unevenly.

    Raises:
        ValueError: They do.
    """
    if budget.tiles != "equal":
        raise ValueError(f"compression {budget}: {budget.method} makes the same grid of every tile; use tiles=equal")


def _is_good(num_cells: int, tile: TileShape) -> bool:
    height, width = best_grid(num_cells, tile.grid)
    return max(height, width) <= _LONGEST * min(height, width)


def centres(cells: tuple[int, int], grid: tuple[int, int], device: torch.device) -> Tensor:
    """(K,), int64: for each cell, in raster order, the patch of the tile that holds its centre.

    Args:
        cells: (h, w), with K = h * w.
        grid: (h, w) of the tile's patches.
        device: Of the result.
    """
    row, column = (
        (2 * torch.arange(count, device=device) + 1) * side // (2 * count)
        for count, side in zip(cells, grid, strict=True)
    )
    return (row.unsqueeze(1) * grid[1] + column).flatten()
