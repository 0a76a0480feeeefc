"""RESTORE's merging (ICML 2026, arXiv 2606.01711), on top of a method that chooses: nothing is dropped.

Half of the tokens are patches that the method has chosen. Of the others some become anchors, which are alike to many
and unlike each other, and each of those left joins the anchor that it is most alike. Written from the paper and from
recorded outputs of the public code, which is GPL-3.0 and was not read.

Shapes: B tiles, N patches, H chosen patches, K tokens, D channels.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.greedy import cosine, full_precision
from llava.model.multimodal_compressor.types import CompressedTokens, gather_rows


def own_share(budget: CompressionConfig) -> CompressionConfig:
    """The part of a budget that the method itself chooses: half of the tokens, rounded down.

    Raises:
        ValueError: There is one token, which has no half.
    """
    if budget.num_tokens < 2:
        raise ValueError(f"compression {budget}: positions=restore merges half of the tokens; keep 2 at least")
    return replace(budget, dominant=budget.num_tokens // 2, contextual=0)


def restore(rows: Tensor, chosen: Tensor, num_tokens: int) -> CompressedTokens:
    """Merges what was not chosen.

    Args:
        rows: (B, N, D), the projector's.
        chosen: (B, H), int64, patches, of which each counts once; -1 for none.
        num_tokens: K, more than H.

    Returns:
        K tokens by the position where they stand: a patch at its own, a merged token at the lower median of its
        members. Tokens carry gradients to `rows`.
    """
    is_chosen = _marked(chosen, rows.shape[1])
    similarity = cosine(rows)
    # Chosen ones come first, and as many anchors as there is room for; so K are found though a patch was chosen twice.
    score = anchor_scores(similarity, ~is_chosen).masked_fill(is_chosen, torch.inf)
    held = score.topk(num_tokens, dim=1).indices  # (B, K)
    label = _joined(similarity, held, is_chosen.gather(1, held))
    number = torch.arange(num_tokens, device=rows.device)
    is_member = label.unsqueeze(1) == number.unsqueeze(1)  # (B, K, N)
    sizes = is_member.sum(dim=2)
    middle = _lower_median(is_member, sizes)
    order = middle.argsort(dim=1)
    means = is_member.to(rows.dtype) @ rows / sizes.unsqueeze(2).to(rows.dtype)
    return CompressedTokens(
        tokens=gather_rows(means, order),
        positions=middle.gather(1, order),
        sizes=sizes.gather(1, order),
        num_dominant=num_tokens,
        num_contextual=0,
        assignment=order.argsort(dim=1).gather(1, label),
    )


def anchor_scores(similarity: Tensor, is_free: Tensor) -> Tensor:
    """How good an anchor each patch would be: R d.

    R is the sum of its similarities to all free patches. d is how far it is from the nearest of those with a smaller R,
    and at most 1, which the patch with the smallest R has. The public code is summarised the other way round, with a
    larger R, but what is recorded of it follows from a smaller one only.

    Args:
        similarity: (B, N, N).
        is_free: (B, N), bool, patches that are to be merged.

    Returns:
        (B, N); of other patches without meaning.
    """
    with full_precision(similarity.device):
        redundancy = similarity @ is_free.to(similarity.dtype).unsqueeze(2)  # (B, N, 1)
    is_below = (redundancy.transpose(1, 2) < redundancy) & is_free.unsqueeze(1)
    nearest = similarity.masked_fill(~is_below, 0.0).amax(dim=2)
    return redundancy.squeeze(2) * (1 - nearest)


def _marked(index: Tensor, count: int) -> Tensor:
    """(B, count), bool: which numbers stand in `index` (B, H), where -1 is none."""
    marks = torch.zeros(len(index), count + 1, dtype=torch.bool, device=index.device)
    return marks.scatter(1, torch.where(index < 0, count, index), True)[:, :count]


def _joined(similarity: Tensor, held: Tensor, is_chosen: Tensor) -> Tensor:
    """(B, N), int64: of each patch the place in `held` (B, K) of the token that it becomes a part of."""
    to_held = similarity.gather(2, held.unsqueeze(1).expand(-1, similarity.shape[1], -1))  # (B, N, K)
    nearest = to_held.masked_fill(is_chosen.unsqueeze(1), -torch.inf).argmax(dim=2)
    place = torch.arange(held.shape[1], device=held.device).expand_as(held)
    return nearest.scatter(1, held, place)


def _lower_median(is_member: Tensor, sizes: Tensor) -> Tensor:
    """(B, K): the middle one of the members (B, K, N) of each token; of two middle ones the first."""
    return (is_member.cumsum(dim=2) <= ((sizes - 1) // 2).unsqueeze(2)).sum(dim=2)
