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
    """Pools patches to a grid of cells.

    Args:
        patches: (B, h * w, C).
        grid: (h, w).
        cells: (h', w') of the result.
        kind: `adaptive` or `bilinear`.

    Returns:
        (B, h' * w', C), in raster order.
    """
    image = _as_image(patches, grid)
    if kind == "bilinear":
        return _as_rows(interpolate(image, cells, mode="bilinear", align_corners=False), patches)
    return _as_rows(adaptive_avg_pool2d(image, cells), patches)


def pool_squares(patches: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Means of squares; a rest at the edges is dropped.

    Args:
        patches: (B, h * w, C).
        grid: (h, w).
        side: Patches of a square's side.

    Returns:
        (B, (h // side) * (w // side), C), in raster order.
    """
    return _as_rows(avg_pool2d(_as_image(patches, grid), side), patches)


def _as_image(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    return patches.unflatten(1, grid).permute(0, 3, 1, 2).float()


def _as_rows(image: Tensor, like: Tensor) -> Tensor:
    return image.flatten(2).transpose(1, 2).to(like.dtype)


def _squares(grid: tuple[int, int]) -> dict[int, int]:
    """Number of squares -> patches of a side, the smallest that gives so many."""
    return {(grid[0] // side) * (grid[1] // side): side for side in range(min(grid), 0, -1)}


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
    grid = features.grid
    if options.kind == "average":
        side = _squares(grid)[budget.num_tokens]
        cells, tokens = (grid[0] // side, grid[1] // side), pool_squares(features.patches, grid, side)
    else:
        cells = best_grid(budget.num_tokens, grid)
        tokens = pool(features.patches, grid, cells, options.kind)
    positions = centres(cells, grid, tokens.device).expand(len(tokens), -1)
    sizes = torch.full_like(positions, features.patches.shape[1] // budget.num_tokens)
    return CompressedTokens(tokens, positions, sizes, budget.num_tokens, 0)
