"""Video-LLaVA's processors for transformers' calling convention: images; videos are given as `images=` of the model."""

from __future__ import annotations

from transformers import LlavaProcessor as HFLlavaProcessor

from llava.model.processing import CompressedProcessor


class VideoLlavaProcessor(CompressedProcessor, HFLlavaProcessor):
    """Text and images become inputs as for LLaVA-1.5."""

    model_type = "video_llava_original"


class VideoLlavaHFProcessor(CompressedProcessor, HFLlavaProcessor):
    """The same of the -hf format."""

    model_type = "video_llava"


__all__ = ["VideoLlavaHFProcessor", "VideoLlavaProcessor"]
