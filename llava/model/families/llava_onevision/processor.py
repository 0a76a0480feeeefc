"""LLaVA-OneVision's processor: transformers' own, counting what compression leaves."""

from __future__ import annotations

from typing import Any

from transformers import LlavaOnevisionProcessor as HFLlavaOnevisionProcessor

from llava.model.clip_processing import ClipProcessor
from llava.model.image_rules import ImageRules


class LlavaOnevisionProcessor(ClipProcessor, HFLlavaOnevisionProcessor):
    """The processor of LLaVA-OneVision; what it saves has no video processor."""

    model_type = "llava_onevision"

    @staticmethod
    def counting(rules: ImageRules) -> dict[str, Any]:
        """As transformers' class counts: by patches of a tile and the bound of an image's canvas."""
        return {"num_image_tokens": rules.num_patches, "vision_aspect_ratio": str(rules.aspect_ratio)}


__all__ = ["LlavaOnevisionProcessor"]
