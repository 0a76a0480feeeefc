"""LLaVA-OneVision's processor: transformers' own, counting what compression leaves."""

from __future__ import annotations

from typing import Any

from transformers import LlavaOnevisionProcessor as HFLlavaOnevisionProcessor

from llava.model.image_rules import ImageRules
from llava.model.processing import CompressedProcessor


class LlavaOnevisionProcessor(CompressedProcessor, HFLlavaOnevisionProcessor):
    """The processor of LLaVA-OneVision, for images; what it saves has no video processor."""

    model_type = "llava_onevision"

    @staticmethod
    def counting(rules: ImageRules) -> dict[str, Any]:
        """As transformers' class counts: by patches of a tile and the bound of an image's canvas."""
        return {"num_image_tokens": rules.num_patches, "vision_aspect_ratio": str(rules.aspect_ratio)}


__all__ = ["LlavaOnevisionProcessor"]
