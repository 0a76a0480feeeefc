"""LLaVA-NeXT-Video's processor for transformers' calling convention: images, as LLaVA-NeXT's."""

from __future__ import annotations

from transformers import LlavaNextProcessor as HFLlavaNextProcessor

from llava.model.processing import CompressedProcessor


class LlavaNextVideoProcessor(CompressedProcessor, HFLlavaNextProcessor):
    """Text and images become inputs as for LLaVA-NeXT."""

    model_type = "llava_next_video"


__all__ = ["LlavaNextVideoProcessor"]
