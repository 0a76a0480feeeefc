"""PruMerge and PruMerge+ (Shang et al., ICCV 2025, arXiv 2403.15388): attended patches take in those that are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.greedy import Rule, cosine, full_precision
from llava.model.multimodal_compressor.registry import register_compressor
from llava.model.multimodal_compressor.types import CompressedTokens, TileShape, VisionFeatures, gather_rows

_NEIGHBOURS = 32
_PLUS_PATCHES, _PLUS_END = 576, 575  # the public PruMerge+ knows one grid, and leaves its last patch out


@dataclass(frozen=True)
class PruMergeOptions:
    """Options of PruMerge and PruMerge+.

    Attributes:
        rule: reference: as released; PruMerge+ then works for 576 patches only and may keep a patch twice. distinct:
            PruMerge+ for any number of patches, its sampled ones evenly spaced among those not kept yet.
    """

    rule: Rule = "reference"


class Merged(NamedTuple):
    """What PruMerge makes of tiles.

    Attributes:
        tokens: (B, K + 1, C), fp32, the kept patches with what they took in, and the extra token of all others.
        kept: (B, K), int64, in the order of the tokens.
    """

    tokens: Tensor
    kept: Tensor


# ----- The parts ---------------------------------------------------------------


def class_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """(B, N), fp32: what CLS attends to in the last layer, as if it had a single head.

    Args:
        queries: (B, N + 1, C), CLS first, not scaled.
        keys: (B, N + 1, C).
    """
    with full_precision(keys.device):
        logits = queries[:, :1].detach().float() @ keys.detach().float().transpose(1, 2)
        return torch.softmax(logits * queries.shape[-1] ** -0.5, dim=-1)[:, 0, 1:]


def by_attention(attention: Tensor, count: int) -> Tensor:
    """(B, count): the most attended patches of (B, N), the most attended first."""
    return attention.argsort(dim=1, descending=True, stable=True)[:, :count]


def outlier_share(attention: Tensor) -> float:
    """The share of patches whose attention is above Q3 + 1.5 (Q3 - Q1), over all tiles of one image; waits once.

    Args:
        attention: (T, N), of one image.
    """
    quarter, three = torch.quantile(attention.flatten(), attention.new_tensor([0.25, 0.75]))
    return int((attention > three + 1.5 * (three - quarter)).sum()) / attention.numel()


def merge(patches: Tensor, keys: Tensor, attention: Tensor, kept: Tensor) -> Merged:
    """Each kept patch takes in its 32 nearest others, kept ones too, by the cosine of keys, weighted by attention.

    As released: the weights do not add up to 1; a patch that is kept twice is its own nearest other; and for each patch
    that is kept twice the first of those not kept is overlooked.

    Args:
        patches: (B, N, C).
        keys: (B, N, C'), of the last layer.
        attention: (B, N), of `class_attention`.
        kept: (B, K), int64.
    """
    num_kept, num_patches = kept.shape[1], patches.shape[1]
    is_free = torch.ones_like(attention, dtype=torch.bool).scatter_(1, kept, False)  # (B, N)
    num_twice = num_kept - num_patches + is_free.sum(dim=1, keepdim=True)
    is_free &= is_free.cumsum(dim=1) > num_twice
    with full_precision(patches.device):
        similarity = cosine(gather_rows(keys, kept), keys)  # (B, K, N)
        # Columns: the kept patches, in their order, and then all patches, of which those not kept count.
        among_kept = similarity.gather(2, kept.unsqueeze(1).expand(-1, num_kept, -1))
        itself = torch.eye(num_kept, dtype=torch.bool, device=kept.device)
        among_free = similarity.masked_fill(~is_free.unsqueeze(1), -torch.inf)
        columns = torch.cat([among_kept.masked_fill(itself, -torch.inf), among_free], dim=2)
        nearest = columns.topk(min(_NEIGHBOURS, num_patches - 1), dim=2).indices  # (B, K, 32)
        every = torch.arange(num_patches, device=kept.device).expand(len(kept), -1)
        patch = torch.cat([kept, every], dim=1).gather(1, nearest.flatten(1)).view_as(nearest)
        weights = attention.new_zeros(len(kept), num_kept + 1, num_patches)
        weight = attention.gather(1, patch.flatten(1)).view_as(patch)
        weights[:, :num_kept].scatter_add_(2, patch, weight)
        weights[:, num_kept] = attention * is_free
        tokens = weights @ patches.float()
    tokens[:, :num_kept] += gather_rows(patches, kept)
    return Merged(tokens, kept)


# ----- What is kept ------------------------------------------------------------


def plus(attention: Tensor, count: int, step: int) -> Tensor:
    """(B, K): PruMerge+ at a given ratio: the most attended patches, and a sequence of equal steps.

    Args:
        attention: (B, 576).
        count: int(576 * ratio).
        step: int(1 / ratio).

    Raises:
        ValueError: There are not 576 patches.
    """
    _check_plus(attention.shape[1])
    sequence = torch.arange(step // 2, _PLUS_END, step, device=attention.device).expand(len(attention), -1)
    return torch.cat([by_attention(attention, count), sequence], dim=1)


def adaptive(patches: Tensor, keys: Tensor, attention: Tensor, is_plus: bool = False) -> Merged:
    """PruMerge with as many tokens as the tiles of one image have outliers; waits for the device once.

    Args:
        patches: (T, N, C), of one image; one tile with `is_plus`.
        keys: (T, N, C').
        attention: (T, N).
        is_plus: Whether patches at equal steps, where they are not outliers, are kept behind these.

    Raises:
        ValueError: With `is_plus`: there are not 576 patches, several tiles, or no outlier or too many.
    """
    ratio = outlier_share(attention)
    kept = by_attention(attention, int(attention.shape[1] * ratio))
    if is_plus:
        _check_plus(attention.shape[1])
        step = int(1 / ratio) // 3 if ratio else 0
        if len(attention) > 1 or step < 1:
            raise ValueError(f"PruMerge+ has no step for {len(attention)} tiles with {100 * ratio:.0f} % outliers")
        sequence = torch.arange(0, _PLUS_END, step, device=kept.device)
        kept = torch.cat([kept, sequence[~torch.isin(sequence, kept)].unsqueeze(0)], dim=1)
    return merge(patches, keys, attention, kept)


def _check_plus(num_patches: int) -> None:
    if num_patches != _PLUS_PATCHES:
        raise ValueError(f"the public PruMerge+ works for {_PLUS_PATCHES} patches only, not for {num_patches}")


def plus_budgets() -> dict[int, tuple[int, int]]:
    """Tokens -> count and step for `plus`, of all ratios; of several, those of the ratio count / 576."""
    found = {}
    for is_exact in (False, True):
        for count in range(1, _PLUS_PATCHES // 2 + 1):
            steps = range(_PLUS_PATCHES // (count + 1), _PLUS_PATCHES // count + 1)
            for step in steps[-1:] if is_exact else steps:
                found[count + len(range(step // 2, _PLUS_END, step)) + 1] = (count, step)
    return found


def _evenly_spaced(attention: Tensor, num_kept: int) -> Tensor:
    """(B, K): half of the patches by attention, half evenly spaced among the others, none twice."""
    num_top = (num_kept + 1) // 2
    top = by_attention(attention, num_top)
    is_top = torch.zeros_like(attention, dtype=torch.uint8).scatter_(1, top, 1)
    others = is_top.argsort(dim=1, stable=True)[:, : attention.shape[1] - num_top]  # in raster order
    rank = torch.arange(num_kept - num_top, device=attention.device)
    place = (2 * rank + 1) * others.shape[1] // (2 * max(len(rank), 1))
    return torch.cat([top, others[:, place]], dim=1)


# ----- At the seam -------------------------------------------------------------


def check_plus(budget: CompressionConfig, tile: TileShape) -> None:
    """Refuses what the public PruMerge+ cannot have."""
    if PruMergeOptions(**budget.options).rule == "distinct":  # type: ignore[arg-type]
        return
    known = plus_budgets()
    try:
        _check_plus(tile.num_patches)
        if budget.tiles != "equal":
            raise ValueError("tiles=area asks for budgets that no ratio gives")
        if budget.num_tokens not in known:
            below = max((tokens for tokens in known if tokens < budget.num_tokens), default=min(known))
            raise ValueError(f"no ratio gives {budget.num_tokens} tokens, and the nearest that one gives are {below}")
    except ValueError as error:
        raise ValueError(f"compression {budget}: {error}; use rule=distinct") from error


@register_compressor(
    "prumerge",
    needs={"last_layer_qk"},
    options=PruMergeOptions,
    source="ICCV 2025, arXiv 2403.15388; 42Shawn/LLaVA-PruMerge 097c041",
)
def prumerge(features: VisionFeatures, budget: CompressionConfig, options: PruMergeOptions) -> CompressedTokens:
    """The K - 1 most attended patches with their neighbours merged into them, and a token of all others."""
    keys, attention = _seen(features)
    return _compressed(features, keys, attention, by_attention(attention, budget.num_tokens - 1))


@register_compressor(
    "prumerge_plus",
    needs={"last_layer_qk"},
    options=PruMergeOptions,
    check=check_plus,
    source="ICCV 2025, arXiv 2403.15388; 42Shawn/LLaVA-PruMerge 097c041",
)
def prumerge_plus(features: VisionFeatures, budget: CompressionConfig, options: PruMergeOptions) -> CompressedTokens:
    """PruMerge whose kept patches are half the most attended ones, half at equal steps."""
    keys, attention = _seen(features)
    if options.rule == "distinct":
        kept = _evenly_spaced(attention, budget.num_tokens - 1)
    else:
        kept = plus(attention, *plus_budgets()[budget.num_tokens])
    return _compressed(features, keys, attention, kept)


def _seen(features: VisionFeatures) -> tuple[Tensor, Tensor]:
    """The patches' keys of the last layer (B, N, C'), and what CLS attends to there (B, N)."""
    assert features.last_layer_qk is not None
    queries, keys = features.last_layer_qk
    return keys[:, 1:], class_attention(queries, keys)


def _compressed(features: VisionFeatures, keys: Tensor, attention: Tensor, kept: Tensor) -> CompressedTokens:
    """Merges; the extra token stands where the most attended patch of those not kept is."""
    merged = merge(features.patches, keys, attention, kept)
    left = attention.scatter(1, kept, -1.0)
    positions = torch.cat([kept, left.argmax(dim=1, keepdim=True)], dim=1)
    sizes = torch.full_like(positions, 1 + min(_NEIGHBOURS, attention.shape[1] - 1))
    sizes[:, -1] = (left >= 0).sum(dim=1)
    dominant = max(kept.shape[1], 1)  # of a single token, too, the place in the picture counts
    return CompressedTokens(
        merged.tokens.to(features.content.dtype), positions, sizes, dominant, positions.shape[1] - dominant
    )
