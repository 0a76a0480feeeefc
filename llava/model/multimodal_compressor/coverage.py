"""This project's own method: few salient patches that together cover the tile, which take in what is left.

A facility location: each patch counts with the largest weight that a chosen patch has for it. MMTok's visual half and
SCOPE are two settings of its options.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.greedy import cosine, cover_gains, full_precision, greedy_cover, shares
from llava.model.multimodal_compressor.method_parts import Nested
from llava.model.multimodal_compressor.registry import Need, register_compressor
from llava.model.multimodal_compressor.types import (
    CompressedTokens,
    TileShape,
    VisionFeatures,
    gather_rows,
    keep_patches,
)


@dataclass(frozen=True)
class CoverageOptions:
    """Options of coverage; the defaults stand here and nowhere else.

    Attributes:
        alpha: exponent, 0 to 10, of the saliency that coverage gained is multiplied by; 0 leaves coverage alone.
        weights: what a patch covers of another: its share among all patches (MMTok), or their cosine (SCOPE).
        temperature: of the softmax that makes shares of cosines, 0.001 to 100.
        strength: how far a kept token moves to the mean of its group, 0 to 1; 0 drops what is left.
        mean: by the group's size, each patch alike; or by similarity, each by its cosine to the kept one.
        least: the cosine below which a patch joins no group and is dropped; -1 lets all join.
        skip_padding: whether the border that makes a picture square is neither kept, nor covered, nor merged.
    """

    alpha: float = 0.25
    weights: Literal["shares", "cosine"] = "shares"
    temperature: float = 0.2
    strength: float = 0.5
    mean: Literal["sizes", "similarity"] = "similarity"
    least: float = -1.0
    skip_padding: bool = True

    def __post_init__(self) -> None:
        # Beyond alpha 10 the factors of a large picture vanish in fp32; far below a temperature of 0.001 shares do.
        ranges = {"alpha": (0, 10), "temperature": (0.001, 100), "strength": (0, 1), "least": (-1, 1)}
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be in {low}..{high}, got {getattr(self, name)}")


class Selection(NamedTuple):
    """Patches in the order of choice: the first k of K are the choice at k.

    Attributes:
        order: (B, K), int64, distinct.
        gains: (B, K), fp32, what each covers more, as a share of what all patches together cover; their sum over the
            first k is the share that k patches cover.
    """

    order: Tensor
    gains: Tensor


# ----- The selection -----------------------------------------------------------


def selection_order(features: VisionFeatures, num_kept: int, options: CoverageOptions | None = None) -> Selection:
    """Which patches are chosen, one after another, and how much of the tile each covers.

    With `alpha` above 0 a later patch may cover more than an earlier, less salient one: a stop by coverage should look
    at the sum of the gains.

    Args:
        features: With `saliency`, unless `alpha` is 0; `padding` is read if it is there.
        num_kept: K.
        options: By default those of the method.
    """
    options = options or CoverageOptions()
    weights = _weights(features, options)
    order = _choose(weights, features, num_kept, options)
    return Selection(order, cover_gains(weights, order))


def _weights(features: VisionFeatures, options: CoverageOptions) -> Tensor:
    """(B, P, P): how well each patch (last axis) covers each patch; padding covers nothing and need not be covered."""
    weights, padding = cosine(features.source), _padding(features, options)
    if padding is not None:
        weights = weights.masked_fill_(padding.unsqueeze(1), -torch.inf)
    if options.weights == "shares":
        weights = shares(weights, options.temperature)
    return weights if padding is None else weights.masked_fill_(padding.unsqueeze(2), 0)


def _choose(weights: Tensor, features: VisionFeatures, num_kept: int, options: CoverageOptions) -> Tensor:
    """(B, K), in the order of choice; padding comes last, in raster order, where no other patch is left."""
    factor, padding = weights.new_ones(weights.shape[:2]), _padding(features, options)
    if options.alpha:
        assert features.saliency is not None
        factor = features.saliency.detach().float() ** options.alpha
    last = torch.zeros_like(factor) if padding is None else padding.to(factor.dtype)
    return greedy_cover(weights, num_kept, factor=factor * (1 - last), bonus=-last)


def _padding(features: VisionFeatures, options: CoverageOptions) -> Tensor | None:
    return features.padding if options.skip_padding else None


# ----- What is left ------------------------------------------------------------


def merge_left(features: VisionFeatures, kept: Tensor, options: CoverageOptions | None = None) -> CompressedTokens:
    """Each patch left over joins the kept one with the largest cosine, which moves to the mean of its group.

    Rows of `source` are compared, those of `content` merged, in fp32; gradients flow through the latter alone.

    Args:
        features: Of B tiles.
        kept: (B, K), int64, distinct, ascending.
        options: By default those of the method.
    """
    options = options or CoverageOptions()
    similarity = cosine(features.source, gather_rows(features.source, kept))  # (B, P, K)
    best, nearest = similarity.max(dim=2)
    joins, padding = best >= options.least, _padding(features, options)
    if padding is not None:
        joins = joins & ~padding
    rows = torch.arange(kept.shape[1], device=kept.device)
    # A kept patch is in its own group, also where its equal is kept.
    group = torch.where(joins, nearest, -1).scatter(1, kept, rows.expand_as(kept))
    weight = torch.ones_like(best) if options.mean == "sizes" else best.clamp(min=0).scatter(1, kept, 1.0)
    member = group.unsqueeze(1) == rows.unsqueeze(1)  # (B, K, P)
    share = member * weight.unsqueeze(1)
    share = share / share.sum(dim=2, keepdim=True)
    with full_precision(share.device):
        means = share @ features.patches.float()
    own = gather_rows(features.patches, kept)
    tokens = own.float().lerp(means, options.strength).to(own.dtype)
    return CompressedTokens(tokens, kept, member.sum(dim=2), kept.shape[1], 0, group)


# ----- At the seam -------------------------------------------------------------


def check(budget: CompressionConfig, tile: TileShape) -> None:
    """Refuses the merging of VisionZip, which this method would ignore."""
    if budget.merge != "reference":
        raise ValueError(f"compression {budget}: coverage merges by strength=0..1 and mean=; leave merge= out")


def _needs_of(options: CoverageOptions) -> Iterable[Need]:
    found: set[Need] = {"saliency"} if options.alpha else set()
    return found | {"padding"} if options.skip_padding else found


def keep_and_merge(features: VisionFeatures, kept: Tensor, options: CoverageOptions) -> CompressedTokens:
    """What coverage makes of the patches (B, K), ascending, that it keeps."""
    return merge_left(features, kept, options) if options.strength else keep_patches(features, kept)


@register_compressor(
    "coverage",
    needs_of=_needs_of,
    nested=Nested(selection_order, keep_and_merge),
    options=CoverageOptions,
    check=check,
    places=("tower", "projected"),
    chooses=lambda options: not options.strength,
    source="of this project: MMTok's visual half times SCOPE's saliency, and merging",
)
def compress(features: VisionFeatures, budget: CompressionConfig, options: CoverageOptions) -> CompressedTokens:
    """Coverage at the seam. It compares the tower's rows, wherever the kept ones are taken from."""
    kept = _choose(_weights(features, options), features, budget.num_tokens, options).sort(dim=1).values
    return keep_and_merge(features, kept, options)
