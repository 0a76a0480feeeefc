"""VisionZip (Yang et al., CVPR 2025, arXiv 2412.04467) as a pure function of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig, MergeRule
from llava.model.multimodal_compressor.budget_check import check_budget
from llava.model.multimodal_compressor.greedy import rank_by_attention
from llava.model.multimodal_compressor.method_parts import Nested
from llava.model.multimodal_compressor.registry import register_compressor
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
        return_assignment: Also return, for each patch, the token that holds it.

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
    arranged = _targets_first(left, contextual)  # (B, R)
    targets, others = arranged[:, :contextual], arranged[:, contextual:]
    cls = kept.new_full((kept.shape[0], offset), -1)
    positions = torch.cat([cls, kept, targets], dim=1)  # (B, K)
    tokens = gather_rows(hidden_states, positions + offset)
    sizes = torch.ones_like(positions)
    group = None
    if contextual:
        group = _nearest_target(gather_rows(_unit(keys[:, offset:]), arranged), contextual)
        member = group.unsqueeze(-1) == torch.arange(contextual, device=group.device)  # (B, R - M, M)
        total = member.to(tokens.dtype).transpose(1, 2) @ gather_rows(hidden_states[:, offset:], others)  # (B, M, C)
        counts = member.sum(dim=1)  # (B, M)
        _merge(tokens[:, dominant:], total, counts, merge)
        sizes[:, dominant:] += counts
    assignment = _assignment(kept, arranged, group, contextual, offset) if return_assignment else None
    return CompressedTokens(tokens, positions, sizes, dominant, contextual, assignment)


def _split(saliency: Tensor, num_kept: int) -> tuple[Tensor, Tensor]:
    """Indices of the patches left over (B, P - num_kept) and of the most salient ones (B, num_kept), both ascending."""
    top = saliency.topk(num_kept, dim=1).indices
    is_kept = torch.zeros_like(saliency, dtype=torch.uint8).scatter_(1, top, 1)  # (B, P)
    order = is_kept.argsort(dim=1, stable=True)  # one stable sort of the mask gives both lists in raster order
    num_left = saliency.shape[1] - num_kept
    return order[:, :num_left], order[:, num_left:]


def _targets_first(left: Tensor, contextual: int) -> Tensor:
    """The R left-over patches (B, R), ascending, with every (R // M)-th, M in all, moved to the front."""
    if not contextual:
        return left
    step = max(1, left.shape[1] // contextual)
    index = torch.arange(left.shape[1], device=left.device)
    rows = index[: contextual * step].view(contextual, step)  # each begins with its target
    order = torch.cat([rows[:, 0], rows[:, 1:].flatten(), index[contextual * step :]])
    return left.index_select(1, order)


def _unit(keys: Tensor) -> Tensor:
    """Keys of length 1, in fp32 also for half-precision models: eight bits of mantissa would decide the groups."""
    return torch.nn.functional.normalize(keys.float(), dim=-1)


def _nearest_target(unit: Tensor, contextual: int) -> Tensor:
    """(B, R - M): for each key of `unit` (B, R, d) but the first M, which of these is most similar to it."""
    return (unit[:, contextual:] @ unit[:, :contextual].transpose(1, 2)).argmax(dim=2)


def _merge(targets: Tensor, total: Tensor, counts: Tensor, merge: MergeRule) -> None:
    """Merges into the targets (B, M, C), in place, the sum `total` (B, M, C) of the (B, M) patches that joined each."""
    if merge == "reference":
        targets += total / counts.clamp(min=1).unsqueeze(-1).to(total.dtype)
    else:
        targets += total
        targets /= (counts + 1).unsqueeze(-1).to(total.dtype)


def _assignment(kept: Tensor, arranged: Tensor, group: Tensor | None, contextual: int, offset: int) -> Tensor:
    """(B, P): for each patch the row of the compressed tokens that holds it, -1 for a dropped one."""
    batch, num_kept = kept.shape
    rows = torch.arange(offset, offset + num_kept + contextual, device=kept.device).expand(batch, -1)
    joined = arranged.new_full(arranged.shape, -1) if group is None else group + offset + num_kept
    patches, rows = torch.cat([kept, arranged], dim=1), torch.cat([rows, joined], dim=1)
    return torch.empty_like(patches).scatter_(1, patches, rows)


@register_compressor(
    "visionzip",
    needs={"keys", "saliency"},
    keeps_cls=True,
    nested=Nested(rank_by_attention),
    places=("tower", "pooled"),
    source="CVPR 2025, arXiv 2412.04467; dvlab-research/VisionZip",
)
def compress(features: VisionFeatures, budget: CompressionConfig) -> CompressedTokens:
    """VisionZip at the seam."""
    assert features.keys is not None and features.saliency is not None  # the registry's `needs` ask for them
    content_lacks_cls = features.saliency_has_cls and not features.has_cls
    return visionzip(
        features.content,
        features.keys[:, int(content_lacks_cls) :],
        features.saliency,
        dominant=budget.dominant,
        contextual=budget.contextual,
        has_cls=features.has_cls,
        merge=budget.merge,
    )
