"""Down-sampling: the picture is shrunk before the tower, so that K patches come out of it."""

from __future__ import annotations

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.cells import best_grid, centres, check_grid
from llava.model.multimodal_compressor.registry import register_compressor
from llava.model.multimodal_compressor.types import CompressedTokens, TileShape, VisionFeatures


def _grid(budget: CompressionConfig, tile: TileShape) -> tuple[int, int]:
    return best_grid(budget.num_tokens, tile.grid)


@register_compressor(
    "downsample",
    check=check_grid,
    places=("pixels",),
    grid=_grid,
    source="a baseline, as in arXiv 2510.07143; positions interpolated by transformers",
)
def downsample(features: VisionFeatures, budget: CompressionConfig) -> CompressedTokens:
    """All patches of the shrunk picture; the tower is run on these alone."""
    tokens = features.patches
    positions = centres(features.grid, features.tile_grid or features.grid, tokens.device).expand(len(tokens), -1)
    sizes = positions.new_ones(positions.shape)
    return CompressedTokens(tokens, positions, sizes, tokens.shape[1], 0)
