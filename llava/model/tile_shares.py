"""Tiles of one image that share its tokens unevenly: what shows more of the picture gets more.

The total of an image stays what equal shares would add up to, so nothing that counts placeholders beforehand changes.
Shapes: T tiles, K tokens of the tile that has most, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llava.model.anyres import TileLayout
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import BoundCompressor, CompressedTokens, TileShape, VisionFeatures
from llava.model.multimodal_compressor.feature_batches import pick_tiles

_HALVINGS = 80  # of the interval that holds tokens a patch: then it is one number

Compress = Callable[[VisionFeatures, BoundCompressor], CompressedTokens]


@dataclass(frozen=True)
class UnevenTiles:
    """The tokens of T tiles that keep different numbers.

    Attributes:
        tokens: (T, K, C), a tile's own first; what follows them means nothing.
        positions: (T, K), as in `CompressedTokens`, likewise.
        splits: How many dominant and contextual tokens each tile has.
    """

    tokens: Tensor
    positions: Tensor
    splits: tuple[tuple[int, int], ...]


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
    has_cls_row = bound.compressor.keeps_cls and tile.keep_cls and bound.place == "tower"
    most = tile.num_patches + int(has_cls_row)
    for count, size in zip(counts, image_sizes, strict=True):
        shares = deal(budget.num_tokens * count, layout.shown_patches(count, size), most)
        for share in shares:
            contextual = min(round(share * budget.contextual / budget.num_tokens), share - 1)
            own = replace(budget, dominant=share - contextual, contextual=contextual)
            bounds.append(replace(bound, budget=own))
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
    longest = max(budget.num_tokens for budget in groups)
    tokens = positions = None
    for members in groups.values():
        index = torch.tensor(members, device=features.content.device)
        kept = compress(pick_tiles(features, index), bounds[members[0]])
        more = longest - kept.tokens.shape[1]
        rows = torch.nn.functional.pad(kept.tokens, (0, 0, 0, more))
        where = torch.nn.functional.pad(kept.positions, (0, more))
        if tokens is None or positions is None:
            tokens = rows.new_zeros(len(bounds), *rows.shape[1:])
            positions = where.new_zeros(len(bounds), longest)
        tokens, positions = tokens.index_copy(0, index, rows), positions.index_copy(0, index, where)
    assert tokens is not None and positions is not None
    return UnevenTiles(tokens, positions, tuple((b.budget.dominant, b.budget.contextual) for b in bounds))
