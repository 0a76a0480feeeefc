"""VisionZip (Yang et al., CVPR 2025, arXiv 2412.04467) as a pure function of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig, MergeRule
from llava.model.multimodal_compressor.registry import check_budget, register_compressor
from llava.model.multimodal_compressor.types import CompressedTokens, VisionFeatures, gather_rows


def visionzip(
    hidden_states: Tensor,
    keys: Tensor,
    saliency: Tensor,
    *,
    dominant: int,
    contextual: int,
    has_cls: bool = True,
    merge: MergeRule = "reference",
    return_assignment: bool = False,
) -> CompressedTokens:
    """Keeps the most attended tokens and merges the others into a few contextual ones.

    The patches with the highest saliency are kept as they are (with CLS, which counts as one, in front). Of the R
    patches left over, in index order, every (R // contextual)-th is a target; each other one joins the target whose
    key is most similar to its own (cosine). Every shape follows from the budget; nothing waits for the device.

    Source: VisionZip, sections 3.2 and 3.3; where the paper and the released code differ (targets, the value of a
    merged token), `merge="reference"` follows the code.

    Args:
        hidden_states: (B, N, C), CLS first if `has_cls`.
        keys: (B, N, d), mean over the heads.
        saliency: (B, P), attention received by each patch.
        dominant: Tokens to keep, CLS included.
        contextual: Tokens to merge the rest into; 0 drops the rest.
        has_cls: Whether row 0 is a CLS token: N = P + 1, else N = P.
        merge: `"reference"`: target + mean of those that joined it; `"mean"`: the mean over the whole group.
        return_assignment: Also tell for each patch which token holds it.

    Returns:
        K = dominant + contextual tokens for each of the B tiles.

    Raises:
        ValueError: The budget does not fit P patches; the message gives the allowed range.
    """
    offset = int(has_cls)
    check_budget(CompressionConfig("visionzip", dominant, contextual, merge), hidden_states.shape[1] - offset, offset)
    if not keys.shape[1] == hidden_states.shape[1] == saliency.shape[1] + offset:
        raise ValueError(
            f"hidden_states {tuple(hidden_states.shape)}, keys {tuple(keys.shape)} and saliency "
            f"{tuple(saliency.shape)} do not describe the same patches"
        )
    left, kept = _split(saliency, dominant - offset)  # (B, R), (B, dominant - offset)
    tokens = gather_rows(hidden_states, kept + offset)
    positions = kept
    if has_cls:
        tokens = torch.cat([hidden_states[:, :1], tokens], dim=1)
        positions = torch.cat([kept.new_full((kept.shape[0], 1), -1), kept], dim=1)
    sizes = torch.ones_like(positions)
    joined = None
    if contextual:
        merged, targets, counts, joined = _merge(hidden_states[:, offset:], keys[:, offset:], left, contextual, merge)
        tokens = torch.cat([tokens, merged], dim=1)
        positions = torch.cat([positions, targets], dim=1)
        sizes = torch.cat([sizes, counts + 1], dim=1)
    assignment = _assignment(kept, left, joined, offset) if return_assignment else None
    return CompressedTokens(tokens, positions, sizes, dominant, contextual, assignment)


def _split(saliency: Tensor, num_kept: int) -> tuple[Tensor, Tensor]:
    """Indices of the patches left over (B, P - num_kept) and of the most salient ones (B, num_kept), both ascending."""
    top = saliency.topk(num_kept, dim=1).indices
    is_kept = torch.zeros_like(saliency, dtype=torch.uint8).scatter_(1, top, 1)  # (B, P)
    order = is_kept.argsort(dim=1, stable=True)  # one stable sort of the mask gives both lists in raster order
    num_left = saliency.shape[1] - num_kept
    return order[:, :num_left], order[:, num_left:]


def _merge(
    patches: Tensor, keys: Tensor, left: Tensor, contextual: int, merge: MergeRule
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Merges R left-over patches into M contextual tokens.

    Args:
        patches: (B, P, C), of which the R rows are copied once: they are most of what the method moves.
        keys: (B, P, d).
        left: (B, R), the patches' indices, ascending.
        contextual: M.
        merge: See `visionzip`.

    Returns:
        tokens (B, M, C), the targets' patch indices (B, M), how many joined each (B, M), and for each of the R the
        number of its group (B, R).
    """
    num_left = left.shape[1]
    step = max(1, num_left // contextual)
    target = torch.arange(contextual, device=left.device) * step  # (M,)
    is_target = torch.zeros(num_left, dtype=torch.uint8, device=left.device).index_fill_(0, target, 1)
    other = is_target.argsort(stable=True)[: num_left - contextual]  # (R - M,), ascending

    targets, others = left[:, target], left[:, other]  # (B, M), (B, R - M)
    # Cosine similarity in fp32 also for half-precision models: eight bits of mantissa would decide the groups.
    unit = torch.nn.functional.normalize(keys.float(), dim=-1)
    group = (gather_rows(unit, others) @ gather_rows(unit, targets).transpose(1, 2)).argmax(dim=2)  # (B, R - M)
    member = torch.nn.functional.one_hot(group, contextual)  # (B, R - M, M)
    counts = member.sum(dim=1)  # (B, M)

    total = member.to(patches.dtype).transpose(1, 2) @ gather_rows(patches, others)  # (B, M, C)
    if merge == "reference":
        tokens = gather_rows(patches, targets) + total / counts.clamp(min=1).unsqueeze(-1).to(patches.dtype)
    else:
        tokens = (gather_rows(patches, targets) + total) / (counts + 1).unsqueeze(-1).to(patches.dtype)

    own_group = torch.arange(contextual, device=left.device).expand(left.shape[0], -1)
    groups = torch.cat([own_group, group], dim=1)[:, torch.cat([target, other]).argsort()]
    return tokens, targets, counts, groups


def _assignment(kept: Tensor, left: Tensor, joined: Tensor | None, offset: int) -> Tensor:
    """(B, P): for each patch the row of the compressed tokens that holds it, -1 for a dropped one."""
    num_kept = kept.shape[1]
    kept_rows = torch.arange(offset, offset + num_kept, device=kept.device).expand_as(kept)
    left_rows = torch.full_like(left, -1) if joined is None else joined + offset + num_kept
    patches, rows = torch.cat([kept, left], dim=1), torch.cat([kept_rows, left_rows], dim=1)
    return torch.empty_like(patches).scatter_(1, patches, rows)


@register_compressor("visionzip", needs={"keys", "saliency"}, keeps_cls=True)
def compress(features: VisionFeatures, budget: CompressionConfig) -> CompressedTokens:
    """VisionZip at the seam."""
    assert features.keys is not None and features.saliency is not None  # the registry's `needs` ask for them
    return visionzip(
        features.hidden_states,
        features.keys,
        features.saliency,
        dominant=budget.dominant,
        contextual=budget.contextual,
        has_cls=features.has_cls,
        merge=budget.merge,
    )
