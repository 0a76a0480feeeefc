"""LLaVA-NeXT's pictures of odd sizes: as many tokens as are counted beforehand, and as transformers counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import LlavaNextProcessor

from llava.images.processing import select_best_resolution
from llava.model.anyres import TileLayout

PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
SIZES = [(width, height) for width in range(1, 2_400, 101) for height in range(3, 2_400, 73)]
assert len(SIZES) == 792


@pytest.mark.parametrize("rule", ["llava", "transformers"])
def test_792_odd_sizes_have_the_tokens_that_are_counted(rule: str) -> None:
    layout = TileLayout("spatial_unpad", rule, PINPOINTS, 336, 24)  # type: ignore[arg-type]
    newline = torch.zeros(1)
    for size in SIZES:
        tiles = torch.zeros(layout.num_tiles(size), 24 * 24, 1)
        counted = layout.num_tokens(len(tiles), size, None)
        assert len(layout.pack(tiles, size, newline)) == counted >= 576, size
        kept = torch.zeros(len(tiles), 64, 1)
        positions = torch.arange(64).expand(len(tiles), 64)
        packed = layout.pack_compressed(kept, positions, 54, size, newline)
        assert len(packed) == layout.num_tokens(len(tiles), size, 64) == 64 * len(tiles), size


def test_792_odd_sizes_are_counted_as_transformers_does() -> None:
    layout = TileLayout("spatial_unpad", "transformers", PINPOINTS, 336, 24)
    grids = [[height, width] for width, height in PINPOINTS]
    theirs = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=grids), patch_size=14, num_additional_image_tokens=0
    )
    theirs._get_unpadded_features = lambda *sizes: LlavaNextProcessor._get_unpadded_features(theirs, *sizes)
    for width, height in SIZES:
        counted = LlavaNextProcessor._get_number_of_features(theirs, height, width, 336, 336)
        assert layout.num_tokens(layout.num_tiles((width, height)), (width, height), None) == counted, (width, height)
        assert select_best_resolution((width, height), PINPOINTS) in PINPOINTS
