"""Pooling: a tile's patches become a smaller grid of means, whatever they show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.cells import best_grid, centres, check_equal, check_grid
from llava.model.multimodal_compressor.registry import register_compressor
from llava.model.multimodal_compressor.types import CompressedTokens, TileShape, VisionFeatures

Kind: TypeAlias = Literal["adaptive", "average", "bilinear"]


@dataclass(frozen=True)
class PoolOptions:
    """Options of pooling.

    Attributes:
        kind: adaptive: means of cells that may overlap where the grid does not divide; average: of squares of 2, 3, 4
            ... patches a side, for the K that these give; bilinear: interpolated between the four nearest patches.
    """

    kind: Kind = "adaptive"


def pool(patches: Tensor, grid: tuple[int, int], cells: tuple[int, int], kind: Kind = "adaptive") -> Tensor:
    """Pools patches.

    Args:
        patches: (B, h * w, C).
        grid: (h, w).
        cells: (h', w') of the result; with `average` what squares of some side give.
        kind: See `PoolOptions`.

    Returns:
        (B, h' * w', C), in raster order.

    Raises:
        ValueError: With `average`: no squares give these cells.
    """
    image = patches.unflatten(1, grid).permute(0, 3, 1, 2).float()
    if kind == "average":
        image = avg_pool2d(image, _side(grid, cells))
    elif kind == "adaptive":
        image = adaptive_avg_pool2d(image, cells)
    else:
        image = interpolate(image, cells, mode="bilinear", align_corners=False)
    return image.flatten(2).transpose(1, 2).to(patches.dtype)


def _squares(grid: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """Number of cells -> cells, of squares of every side; a rest at the edges is dropped."""
    sides = range(min(grid), 0, -1)
    return {(grid[0] // side) * (grid[1] // side): (grid[0] // side, grid[1] // side) for side in sides}


def _side(grid: tuple[int, int], cells: tuple[int, int]) -> int:
    """Patches of a square's side."""
    for side in range(1, min(grid) + 1):
        if (grid[0] // side, grid[1] // side) == cells:
            return side
    raise ValueError(f"no squares give {cells[0]} x {cells[1]} cells of {grid[0]} x {grid[1]} patches")


def _cells(num_cells: int, grid: tuple[int, int], kind: Kind) -> tuple[int, int]:
    return _squares(grid)[num_cells] if kind == "average" else best_grid(num_cells, grid)


def check(budget: CompressionConfig, tile: TileShape) -> None:
    """Refuses a number of tokens that makes no grid."""
    if PoolOptions(**budget.options).kind != "average":  # type: ignore[arg-type]
        check_grid(budget, tile)
        return
    check_equal(budget)
    known = _squares(tile.grid)
    if budget.num_tokens not in known:
        below = max((count for count in known if count < budget.num_tokens), default=min(known))
        raise ValueError(
            f"compression {budget}: no squares give {budget.num_tokens} cells of {tile.grid[0]} x {tile.grid[1]} "
            f"patches; the nearest number that some give is {below}"
        )


@register_compressor(
    "pool",
    options=PoolOptions,
    check=check,
    places=("tower", "projected", "pooled"),
    source="a baseline; torch.nn.functional's avg_pool2d, adaptive_avg_pool2d and interpolate",
)
def pooled(features: VisionFeatures, budget: CompressionConfig, options: PoolOptions) -> CompressedTokens:
    """The tile's grid, pooled to a smaller one of its aspect."""
    cells = _cells(budget.num_tokens, features.grid, options.kind)
    tokens = pool(features.patches, features.grid, cells, options.kind)
    positions = centres(cells, features.grid, tokens.device).expand(len(tokens), -1)
    sizes = torch.full_like(positions, features.patches.shape[1] // budget.num_tokens)
    return CompressedTokens(tokens, positions, sizes, budget.num_tokens, 0)
