"""Video-LLaVA's processors for transformers' calling convention; the original's ids have no token for videos."""

from __future__ import annotations

from transformers import LlavaProcessor as HFLlavaProcessor

from llava.model.clip_processing import ClipProcessor


class VideoLlavaProcessor(ClipProcessor, HFLlavaProcessor):
    """Text and images become inputs as for LLaVA-1.5."""

    model_type = "video_llava_original"


class VideoLlavaHFProcessor(ClipProcessor, HFLlavaProcessor):
    """The same of the -hf format."""

    model_type = "video_llava"


__all__ = ["VideoLlavaHFProcessor", "VideoLlavaProcessor"]
