"""FasterVLM (Zhang et al., 2024, arXiv 2412.01818v1): the K patches that CLS attends to most."""

from __future__ import annotations

from dataclasses import dataclass

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.greedy import Rule, keep_ranked, rank_by_attention
from llava.model.multimodal_compressor.method_parts import Nested
from llava.model.multimodal_compressor.registry import register_compressor
from llava.model.multimodal_compressor.types import CompressedTokens, VisionFeatures, keep_patches


@dataclass(frozen=True)
class FasterVLMOptions:
    """Options of FasterVLM.

    Attributes:
        rule: Both are the same: the patches that are kept always differ.
    """

    rule: Rule = "reference"


@register_compressor(
    "fastervlm",
    needs={"saliency"},
    nested=Nested(rank_by_attention, keep_ranked),
    options=FasterVLMOptions,
    chooses=True,
    source="arXiv 2412.01818v1; Theia-4869/FasterVLM f5d5f12",
)
def fastervlm(features: VisionFeatures, budget: CompressionConfig, options: FasterVLMOptions) -> CompressedTokens:
    """The most attended patches, in raster order; without a CLS token those that all patches attend to."""
    assert features.saliency is not None
    return keep_patches(features, features.saliency.topk(budget.num_tokens, dim=1).indices.sort(dim=1).values)
