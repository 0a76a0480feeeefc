"""Mini-Gemini's processor: one larger picture an image, from which the model makes what its towers see."""

from __future__ import annotations

from llava.model.processing import LlavaProcessor


class MiniGeminiProcessor(LlavaProcessor):
    """Images and text become inputs as for LLaVA-1.5, images at `image_size_aux`."""

    model_type = "mgm"


__all__ = ["MiniGeminiProcessor"]
