"""What greedy selections share: one similarity matrix a tile, and K steps that each cost one pass over what they need.

Every step is a few operations with shapes that follow from K alone; nothing waits for the device. B tiles, N patches,
K kept patches.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llava.model.multimodal_compressor.types import CompressedTokens, VisionFeatures, keep_patches

Rule = Literal["reference", "distinct"]
"""`reference` does what the public code does; `distinct` never keeps a patch twice."""


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off, on devices that have it: training's would multiply in bf16."""
    return torch.autocast(device.type, enabled=False) if device.type != "meta" else nullcontext()


def cosine(rows: Tensor, others: Tensor | None = None) -> Tensor:
    """Cosines between rows, always in fp32: eight bits of mantissa would decide what is kept.

    Args:
        rows: (B, N, C), any float type; no gradient flows through a selection.
        others: (B, M, C); None for the rows themselves.

    Returns:
        (B, N, M).
    """
    given = (rows.detach(),) if others is None else (rows.detach(), others.detach())
    with full_precision(rows.device):
        return _cosine(*given)


def shares(similarity: Tensor, temperature: float) -> Tensor:
    """How each row's attention is shared out among the patches, (B, M, N); overwrites its argument of that shape."""
    return similarity.div_(temperature).softmax(dim=2)


def row_of(matrix: Tensor, index: Tensor) -> Tensor:
    """(B, M): of each sample of `matrix` (B, N, M) the row that `index` (B, 1) names."""
    return matrix.gather(1, index.unsqueeze(2).expand(-1, -1, matrix.shape[2])).squeeze(1)


def greedy_cover(weights: Tensor, num_kept: int, factor: Tensor, bonus: Tensor) -> Tensor:
    """Chooses patches that cover targets: each target counts with the largest weight that a chosen patch has for it.

    A step adds the patch with the largest `gain * factor + bonus` that is not chosen yet; it costs M N.

    Args:
        weights: (B, M, N), how well each patch covers each of M targets; what is negative covers nothing.
        num_kept: K.
        factor: (B, N), of the coverage gained.
        bonus: (B, N), finite.

    Returns:
        (B, K), int64, distinct patches in the order of choice.
    """

    def cover(weights: Tensor, factor: Tensor, bonus: Tensor) -> Tensor:
        return _cover(weights, num_kept, factor, bonus)

    return by_tile(cover, weights, factor, bonus)


def cover_gains(weights: Tensor, order: Tensor) -> Tensor:
    """What each step of `greedy_cover` covers, as a share of what all patches together cover.

    Args:
        weights: (B, M, N), as for `greedy_cover`.
        order: (B, K), int64, of `greedy_cover`.

    Returns:
        (B, K), 0 or more; at K = N they add up to 1, and where nothing can be covered all are 0.
    """
    chosen = weights.gather(2, order.unsqueeze(1).expand(-1, weights.shape[1], -1))
    covered = chosen.clamp(min=0).cummax(dim=2).values.sum(dim=1)  # (B, K), after each step
    total = weights.clamp(min=0).amax(dim=2).sum(dim=1, keepdim=True)
    gained = covered.diff(dim=1, prepend=covered.new_zeros(len(covered), 1))
    return gained.clamp(min=0) / total.clamp(min=torch.finfo(total.dtype).tiny)


def keep_chosen(features: VisionFeatures, order: Tensor) -> CompressedTokens:
    """The patches that `order` (B, K) names, in raster order."""
    return keep_patches(features, order.sort(dim=1).values)


def keep_ranked(features: VisionFeatures, kept: Tensor, options: Any) -> CompressedTokens:
    """What a method keeps that only chooses: the patches (B, K), ascending; options have no say."""
    return keep_patches(features, kept)


def rank_by_attention(features: VisionFeatures, num_kept: int, options: Any = None) -> tuple[Tensor, Tensor]:
    """The most attended patches, (B, K), the first above all, and the share of the attention that each has, (B, K)."""
    top = features.attention_shares.topk(num_kept, dim=1)
    return top.indices, top.values


def by_tile(work: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """The same work on all tiles at once; eagerly on a CPU, one by one.

    There the matrix of a single tile stays in the cache from step to step, and its memory is used again by the next.
    """
    if given[0].device.type != "cpu" or torch.compiler.is_compiling():
        return work(*given)
    return torch.cat([work(*tile) for tile in zip(*(part.split(1) for part in given), strict=True)])


def _cosine(rows: Tensor, others: Tensor | None = None) -> Tensor:
    unit = normalize(rows.float(), dim=-1)
    return unit @ (unit if others is None else normalize(others.float(), dim=-1)).transpose(1, 2)


def _cover(weights: Tensor, num_kept: int, factor: Tensor, bonus: Tensor) -> Tensor:
    bonus = bonus.clone()
    covered = weights.new_zeros(*weights.shape[:2], 1)
    uncovered = torch.empty_like(weights)  # one block for all steps: a fresh one a step costs more than the arithmetic
    order: list[Tensor] = []
    for _ in range(num_kept):
        gain = torch.sub(weights, covered, out=uncovered).relu_().sum(dim=1)  # (B, N)
        pick = torch.addcmul(bonus, gain, factor).argmax(dim=1, keepdim=True)
        order.append(pick)
        bonus.scatter_(1, pick, -torch.inf)
        of_pick = weights.gather(2, pick.unsqueeze(1).expand(-1, weights.shape[1], -1))
        covered = torch.maximum(covered, of_pick)
    return torch.cat(order, dim=1)
