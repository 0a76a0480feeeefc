"""LLaVA-NeXT-Video's processor for transformers' calling convention."""

from __future__ import annotations

from transformers import LlavaNextProcessor as HFLlavaNextProcessor

from llava.model.clip_processing import ClipProcessor


class LlavaNextVideoProcessor(ClipProcessor, HFLlavaNextProcessor):
    """Text and images become inputs as for LLaVA-NeXT, and videos beside them."""

    model_type = "llava_next_video"


__all__ = ["LlavaNextVideoProcessor"]
