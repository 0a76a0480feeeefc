"""CDPruner (Zhang et al., NeurIPS 2025, arXiv 2506.10967): the K most relevant and diverse patches of a DPP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.greedy import Rule, cosine, full_precision, keep_chosen, row_of
from llava.model.multimodal_compressor.registry import register_compressor
from llava.model.multimodal_compressor.types import ClipJoint, CompressedTokens, TileShape, VisionFeatures

# A pivot below this is rounding: what is left of the kernel is in the span of the rows that are chosen.
_NO_PIVOT = 1e-10


@dataclass(frozen=True)
class CDPrunerOptions:
    """Options of CDPruner.

    Attributes:
        rule: reference: refuses budgets above the width of the rows, where the public code keeps fewer than K;
            distinct: fills up to K from there on.
    """

    rule: Rule = "reference"


def relevance(joint: ClipJoint, image_index: Tensor) -> Tensor:
    """How relevant each patch is to the question: nearly 0 for the one that CLIP finds most similar, 1 for the least.

    The released code counts low similarity as relevant. Its minimum and maximum are of all tiles of the call; here, of
    all tiles of the image.

    Args:
        joint: Patches and question in CLIP's joint space.
        image_index: (B,), in 0..B-1: tiles of one image have the same.

    Returns:
        (B, N), fp32; 1 for all patches where there is no question or nothing tells them apart.
    """
    there = joint.mask.unsqueeze(1)  # (B, 1, M)
    similarity = (cosine(joint.image, joint.text) * there).sum(dim=2) / there.sum(dim=2).clamp(min=1)  # (B, N)
    low, high = (-similarity).aminmax(dim=1)
    segments = torch.full_like(low, torch.inf)
    low = segments.scatter_reduce(0, image_index, low, "amin")[image_index].unsqueeze(1)
    high = (-segments).scatter_reduce(0, image_index, high, "amax")[image_index].unsqueeze(1)
    span = high - low
    return torch.where(span > 0, (-similarity - low + 1e-6) / span, 1.0)


def dpp_kernel(rows: Tensor, relevant: Tensor | None = None) -> Tensor:
    """(B, N, N): cosines between rows (B, N, C), weighted on both sides by relevance (B, N), or not at all."""
    similarity = cosine(rows)
    return similarity if relevant is None else relevant.unsqueeze(2) * similarity * relevant.unsqueeze(1)


def most_diverse(kernel: Tensor, num_kept: int) -> Tensor:
    """Fast greedy MAP of a determinantal point process (Chen et al., NeurIPS 2018): a pivoted Cholesky factorisation.

    A step costs K N. The public code divides by the root of a pivot that rounding has made negative where K exceeds the
    kernel's rank, and keeps fewer patches; here the other patches' pivots then stay as they are, and no patch is chosen
    twice.

    Args:
        kernel: (B, N, N).
        num_kept: K.

    Returns:
        (B, K), int64, distinct patches in the order of choice.
    """
    pivots = kernel.diagonal(dim1=1, dim2=2).clone()  # (B, N)
    factor = kernel.new_zeros(kernel.shape[0], num_kept, kernel.shape[2])
    order: list[Tensor] = []
    with full_precision(kernel.device):
        for step in range(num_kept):
            pick = pivots.argmax(dim=1, keepdim=True)
            order.append(pick)
            pivot = pivots.gather(1, pick)
            pivot = pivot.masked_fill(pivot <= _NO_PIVOT, torch.inf)  # the column is then 0
            before = factor[:, :step]
            of_pick = before.gather(2, pick.unsqueeze(1).expand(-1, step, -1)).transpose(1, 2)  # (B, 1, step)
            residual = row_of(kernel, pick) - (of_pick @ before).squeeze(1)
            column = residual / pivot.sqrt()
            factor[:, step] = column
            pivots = (pivots - column.square()).scatter_(1, pick, -torch.inf)
    return torch.cat(order, dim=1)


def check(budget: CompressionConfig, tile: TileShape) -> None:
    """Refuses what the public code cannot keep, as far as shapes tell."""
    rule = budget.options.get("rule", CDPrunerOptions.rule)
    if rule == "reference" and tile.projected_width is not None and budget.num_tokens > tile.projected_width:
        raise ValueError(
            f"compression {budget}: {budget.num_tokens} tokens are more than the {tile.projected_width} channels of "
            "the projected rows, the highest rank of CDPruner's kernel, above which its public code keeps fewer; add "
            "rule=distinct"
        )


@register_compressor(
    "cdpruner",
    needs={"image_index"},
    wants={"clip_joint"},
    options=CDPrunerOptions,
    check=check,
    places=("projected", "pooled"),
    chooses=True,
    source="NeurIPS 2025, arXiv 2506.10967; Theia-4869/CDPruner 9541616",
)
def compress(features: VisionFeatures, budget: CompressionConfig, options: CDPrunerOptions) -> CompressedTokens:
    """CDPruner at the seam; without `clip_joint` all patches are equally relevant, and no text is read."""
    relevant = None
    if features.clip_joint is not None:
        assert features.image_index is not None
        relevant = relevance(features.clip_joint, features.image_index)
    return keep_chosen(features, most_diverse(dpp_kernel(features.patches, relevant), budget.num_tokens))
