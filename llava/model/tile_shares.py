"""Tiles of one image that share its tokens unevenly: what shows more of the picture gets more.

The total of an image stays what equal shares would add up to, so nothing that counts placeholders beforehand changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from llava.model.anyres import TileLayout
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import BoundCompressor, CompressedTokens, TileShape, VisionFeatures
from llava.model.multimodal_compressor.feature_batches import pick_tiles
from llava.model.multimodal_compressor.uneven import KeptGroup, UnevenTiles, join_groups

_HALVINGS = 80  # of the interval that holds tokens a patch: then it is one number

Compress = Callable[[VisionFeatures, BoundCompressor], CompressedTokens]


def shared_bounds(
    bound: BoundCompressor,
    tile: TileShape,
    layout: TileLayout,
    counts: Sequence[int],
    image_sizes: Sequence[tuple[int, int]] | None,
) -> list[BoundCompressor]:
    """The compressor of each tile, with its share of its image's total.

    Args:
        bound: With the budget of equal shares.
        tile: What all tiles are.
        layout: Of the model.
        counts: Tiles of each image.
        image_sizes: (w, h) of each.

    Raises:
        ValueError: The sizes are not given.
    """
    if image_sizes is None:
        raise ValueError(f"compression {bound.budget}: tiles=area needs image_sizes, the (w, h) of each image")
    budget, bounds = bound.budget, []
    has_cls_row = bound.compressor.keeps_cls and bound.keep_cls and bound.place == "tower"
    most = tile.num_patches + int(has_cls_row)
    for count, size in zip(counts, image_sizes, strict=True):
        shares = deal(budget.num_tokens * count, layout.shown_patches(count, size), most)
        for share in shares:
            bounds.append(replace(bound, budget=budget.with_total(share)))
    return bounds


def deal(total: int, weights: Sequence[int], most: int) -> list[int]:
    """Whole shares of a total in proportion to weights, each at least 1 and at most `most`.

    What rounding leaves goes to the largest remainders, and among equals to the first.

    Args:
        total: Between the number of weights and `most` times it.
        weights: Not negative.
        most: Of one share.
    """
    shown = [weight for weight in weights if weight > 0]
    blank = len(weights) - len(shown)
    rest = total - most * len(shown)
    if rest > blank:  # what shows something is full, so what shows nothing shares the rest
        of_blank = iter(deal(rest, [1] * blank, most))
        return [most if weight > 0 else next(of_blank) for weight in weights]
    low, high = 0.0, float(most)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(_shares(weights, most, middle)) < total else (low, middle)
    exact = _shares(weights, most, high)
    whole = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda each: (whole[each] - exact[each], each))
    for each in by_remainder[: total - sum(whole)]:
        whole[each] += 1
    return whole


def _shares(weights: Sequence[int], most: int, per_weight: float) -> list[float]:
    return [min(max(per_weight * weight, 1.0), float(most)) for weight in weights]


def compress_unevenly(compress: Compress, features: VisionFeatures, bounds: Sequence[BoundCompressor]) -> UnevenTiles:
    """Compresses tiles of equal shares together.

    Args:
        compress: Of features of some tiles, by a bound compressor.
        features: Of T tiles.
        bounds: Of each.
    """
    groups: dict[CompressionConfig, list[int]] = {}
    for tile, bound in enumerate(bounds):
        groups.setdefault(bound.budget, []).append(tile)
    parts = []
    for members in groups.values():
        index = torch.tensor(members, device=features.content.device)
        parts.append(KeptGroup(members, index, compress(pick_tiles(features, index), bounds[members[0]])))
    return join_groups(parts)
