"""DivPrune (Alvar et al., CVPR 2025, arXiv 2503.02175): the K patches whose smallest mutual distance is largest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.greedy import Rule, cosine, keep_chosen, row_of
from llava.model.multimodal_compressor.registry import register_compressor
from llava.model.multimodal_compressor.types import CompressedTokens, VisionFeatures


@dataclass(frozen=True)
class DivPruneOptions:
    """Options of DivPrune.

    Attributes:
        rule: reference: as released, where identical patches can fill several of the K rows with one patch; distinct:
            K patches, none twice.
    """

    rule: Rule = "reference"


def distances(rows: Tensor) -> Tensor:
    """(B, N, N): cosine distances between rows (B, N, C)."""
    return cosine(rows).neg_().add_(1)


def farthest(distance: Tensor, num_kept: int, rule: Rule = "reference") -> Tensor:
    """Starts at the patch that is farthest from its nearest other one, then adds the one farthest from those chosen.

    A step costs N.

    Args:
        distance: (B, N, N).
        num_kept: K.
        rule: `reference` does not exclude chosen patches, whose distance is 0: once all others are identical to chosen
            ones, rounding decides, and patches are chosen again. `distinct` excludes them.

    Returns:
        (B, K), int64, in the order of choice.
    """
    # The second-smallest, for the smallest is the distance to oneself, unless rounding says otherwise.
    smallest = distance.topk(min(2, distance.shape[2]), dim=2, largest=False).values[:, :, -1]
    pick = smallest.argmax(dim=1, keepdim=True)
    order = [pick]
    nearest = torch.full_like(smallest, torch.inf)  # to what is chosen
    for _ in range(num_kept - 1):
        nearest = torch.minimum(nearest, row_of(distance, pick))
        if rule == "distinct":
            nearest.scatter_(1, pick, -torch.inf)
        pick = nearest.argmax(dim=1, keepdim=True)
        order.append(pick)
    return torch.cat(order, dim=1)


@register_compressor(
    "divprune",
    options=DivPruneOptions,
    places=("projected", "pooled"),
    chooses=True,
    source="CVPR 2025, arXiv 2503.02175; vbdi/divprune 799e2d9",
)
def compress(features: VisionFeatures, budget: CompressionConfig, options: DivPruneOptions) -> CompressedTokens:
    """DivPrune at the seam. Under `reference` a patch may stand in several of the K rows."""
    return keep_chosen(features, farthest(distances(features.patches), budget.num_tokens, options.rule))
