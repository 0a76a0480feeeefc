"""How many tokens a tile keeps by its own picture, and what the method keeps of it then.

Every rule gives `levels`: for k = 0, 1, ... what would still be missing with k tokens. They never rise with k; a tile
keeps as many as are above the threshold. Shapes: T tiles, P patches, M = the most that a tile may keep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from llava.model.adaptive_budget import AdaptiveK, AdaptiveRule
from llava.model.multimodal_compressor.feature_batches import pick_tiles
from llava.model.multimodal_compressor.registry import BoundCompressor
from llava.model.multimodal_compressor.types import CompressedTokens, VisionFeatures
from llava.model.multimodal_compressor.uneven import KeptGroup, UnevenTiles, join_groups

_LARGEST_SHARE = 2  # times the equal one, where tiles share a total by gain


@dataclass(frozen=True)
class RankedTiles:
    """What is known of tiles before it is known how many tokens each keeps; nothing has waited for the device.

    Attributes:
        levels: (T, M), fp32, not rising along a row.
        order: (T, M), int64, patches in the order of choice, where the method's first k of M are its choice at k.
    """

    levels: Tensor
    order: Tensor | None


def rank_tiles(bound: BoundCompressor, features: VisionFeatures, rule: AdaptiveRule, most: int) -> RankedTiles:
    """Ranks the patches of tiles and tells what is missing after each.

    Args:
        bound: A compressor that has an order of selection.
        features: Of T tiles, as the compressor takes them.
        rule: Says what may be missing.
        most: M.
    """
    nested = bound.compressor.nested
    assert nested is not None  # `check` refuses others
    order, gains = nested.rank(features, min(most, features.source.shape[1]), bound.options)
    levels = _LEVELS[rule](features, gains)[:, :most]
    levels = torch.nn.functional.pad(levels, (0, most - levels.shape[1]))  # a CLS token is one more than the patches
    # Sums in another order than one by one may rise by a rounding; `cummin` is what makes K follow the threshold.
    return RankedTiles(levels.cummin(dim=1).values, order if nested.keep is not None else None)


def count_kept(levels: Tensor, adaptive: AdaptiveK) -> Tensor:
    """(T,), int64: tokens that each tile keeps.

    Args:
        levels: (T, M), of `rank_tiles`.
        adaptive: Threshold and floor.
    """
    return (levels > adaptive.threshold).sum(dim=1).clamp(min=adaptive.floor)


def share_total(levels: Tensor, counts: Sequence[int], per_tile: int) -> Tensor:
    """(T,), int64: the tiles of each image share its total so that no other share has more of the levels.

    Args:
        levels: (T, M).
        counts: Tiles of each image.
        per_tile: The total of an image over its number of tiles; at most M.
    """
    shares = []
    for image in levels.split(list(counts)):
        first = torch.full_like(image[:, :1], torch.inf)  # a tile keeps 1 at least
        flat = torch.cat([first, image[:, 1:]], dim=1).flatten()
        taken = flat.sort(descending=True, stable=True).indices[: per_tile * len(image)]
        shares.append(torch.zeros_like(flat).scatter(0, taken, 1.0).view_as(image).sum(dim=1))
    return torch.cat(shares).long()


def compress_adaptively(
    bound: BoundCompressor, features: VisionFeatures, counts: Sequence[int] | None = None
) -> UnevenTiles:
    """Each tile with as many tokens as its picture asks for, or as its share of its image's total is.

    Waits for the device once, for the numbers. What a tile keeps is what the method keeps of it at that number.

    Args:
        bound: With `adaptive`, or `tiles="gain"`.
        features: Of T tiles, as the compressor takes them.
        counts: Tiles of each image; None if each is a single tile.
    """
    budget, adaptive = bound.budget, bound.budget.adaptive
    if adaptive is not None:
        ranked = rank_tiles(bound, features, adaptive.rule, budget.num_tokens)
        numbers = count_kept(ranked.levels, adaptive)
    else:
        most = min(_LARGEST_SHARE * budget.num_tokens, max(budget.num_tokens, features.source.shape[1]))
        ranked = rank_tiles(bound, features, "gain", most)
        numbers = share_total(ranked.levels, counts or [1] * len(ranked.levels), budget.num_tokens)
    return _compress_groups(bound, features, ranked, numbers)


def choose(bound: BoundCompressor, features: VisionFeatures) -> CompressedTokens:
    """What a compressor keeps of tiles that are looked at one by one, for pictures and measurements.

    Args:
        bound: The compressor with its budget.
        features: Of T tiles, as the compressor takes them.

    Returns:
        As `CompressedTokens` has it; of tiles that keep fewer than others the rest are empty tokens.
    """
    return bound(features) if bound.budget.adaptive is None else compress_adaptively(bound, features).as_even()


def _compress_groups(
    bound: BoundCompressor, features: VisionFeatures, ranked: RankedTiles, numbers: Tensor
) -> UnevenTiles:
    on_host: list[int] = numbers.tolist()  # the one wait for the device
    arranged = numbers.argsort(stable=True)  # on the device, so that no index is copied there
    same = sorted(range(len(on_host)), key=on_host.__getitem__)
    groups, start = [], 0
    for number, tiles in groupby(same, on_host.__getitem__):
        members = list(tiles)
        index = arranged[start : start + len(members)]
        start += len(members)
        groups.append(KeptGroup(members, index, _keep(bound, features, ranked, index, number)))
    return join_groups(groups)


def _keep(
    bound: BoundCompressor, features: VisionFeatures, ranked: RankedTiles, index: Tensor, number: int
) -> CompressedTokens:
    """What the method keeps of some tiles at a number of tokens."""
    nested, own = bound.compressor.nested, pick_tiles(features, index)
    if nested is not None and nested.keep is not None and ranked.order is not None:
        return nested.keep(own, ranked.order[index, :number].sort(dim=1).values, bound.options)
    return replace(bound, budget=replace(bound.budget.with_total(number), tiles="equal"))(own)


# ----- The rules ---------------------------------------------------------------


def _gain(features: VisionFeatures, gains: Tensor) -> Tensor:
    """The most that this token or a later one covers: a later one may cover more where saliency has its say."""
    return gains.flip(1).cummax(dim=1).values.flip(1)


def _cover(features: VisionFeatures, gains: Tensor) -> Tensor:
    """What is not covered before this token; nothing where there is nothing to cover, as in a tile of padding."""
    left = 1 - torch.cat([torch.zeros_like(gains[:, :1]), gains.cumsum(dim=1)[:, :-1]], dim=1)
    return left.masked_fill(gains.sum(dim=1, keepdim=True) <= 0, 0)


def _attention(features: VisionFeatures, gains: Tensor) -> Tensor:
    """The share of attention on all patches but the k most attended."""
    return features.attention_shares.sort(dim=1).values.cumsum(dim=1).flip(1)


def _rank(features: VisionFeatures, gains: Tensor) -> Tensor:
    """The effective rank over k; without end for k = 0."""
    places = torch.arange(gains.shape[1], device=gains.device)
    return effective_rank(features.source).unsqueeze(1) / places


_LEVELS: dict[AdaptiveRule, Callable[[VisionFeatures, Tensor], Tensor]] = {
    "gain": _gain,
    "cover": _cover,
    "attention": _attention,
    "rank": _rank,
}


def effective_rank(rows: Tensor) -> Tensor:
    """The exponential of the entropy of the singular values, which are brought to the sum 1.

    On a GPU the decomposition waits for the device by itself.

    Args:
        rows: (T, P, C).

    Returns:
        (T,), fp32, in 1..min(P, C).

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    wide = rows.detach().double()  # squares of small singular values are lost in fp32
    gram = wide @ wide.mT if wide.shape[1] <= wide.shape[2] else wide.mT @ wide
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = values / values.sum(dim=1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(shares).sum(dim=1).exp().float()
