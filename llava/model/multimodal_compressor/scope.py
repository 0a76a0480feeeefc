"""SCOPE (Deng et al., NeurIPS 2025, arXiv 2510.24214): salient patches to which many others are similar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.greedy import Rule, cosine, cover_gains, greedy_cover, keep_chosen, keep_ranked
from llava.model.multimodal_compressor.method_parts import Nested
from llava.model.multimodal_compressor.registry import register_compressor
from llava.model.multimodal_compressor.types import CompressedTokens, VisionFeatures

Combination = Literal["multiply", "add"]


@dataclass(frozen=True)
class ScopeOptions:
    """Options of SCOPE.

    Attributes:
        alpha: exponent of the saliency; 0 leaves coverage alone.
        combine: whether coverage gained and saliency are multiplied or added.
        rule: the same patches by either rule, for SCOPE never chooses one twice.
    """

    alpha: float = 1.0
    combine: Combination = "multiply"
    rule: Rule = "reference"

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise ValueError(f"alpha must be 0 or more, got {self.alpha}")


def cover_salient(
    similarity: Tensor, saliency: Tensor, num_kept: int, alpha: float = 1.0, combine: Combination = "multiply"
) -> Tensor:
    """Adds the patch with the best coverage gained and saliency, K times.

    A step costs N^2.

    Args:
        similarity: (B, N, N), cosines.
        saliency: (B, N), of each patch, summed over the heads.
        num_kept: K.
        alpha: Exponent of the saliency.
        combine: How gain and saliency make a score.

    Returns:
        (B, K), int64, distinct patches in the order of choice.
    """
    weight = saliency.detach().float() ** alpha
    if combine == "multiply":
        return greedy_cover(similarity, num_kept, factor=weight, bonus=torch.zeros_like(weight))
    return greedy_cover(similarity, num_kept, factor=torch.ones_like(weight), bonus=weight)


def rank(features: VisionFeatures, num_kept: int, options: ScopeOptions) -> tuple[Tensor, Tensor]:
    """Patches in the order of choice, (B, K), and the share of the tile that each covers more, (B, K)."""
    assert features.saliency is not None
    similarity = cosine(features.source)
    order = cover_salient(similarity, features.saliency, num_kept, options.alpha, options.combine)
    return order, cover_gains(similarity, order)


@register_compressor(
    "scope",
    needs={"saliency"},
    nested=Nested(rank, keep_ranked),
    options=ScopeOptions,
    places=("tower", "projected"),
    chooses=True,
    source="NeurIPS 2025, arXiv 2510.24214; kinredon/SCOPE 6bf7306",
)
def compress(features: VisionFeatures, budget: CompressionConfig, options: ScopeOptions) -> CompressedTokens:
    """SCOPE at the seam. It compares the tower's rows, wherever the kept ones are taken from."""
    assert features.saliency is not None
    similarity = cosine(features.source)
    order = cover_salient(similarity, features.saliency, budget.num_tokens, options.alpha, options.combine)
    return keep_chosen(features, order)
