"""The models: vision tower, compressor, projector, language model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava.model.configuration import CompressionConfig
    from llava.model.llava_arch import LlavaForConditionalGeneration, LlavaNextForConditionalGeneration

__all__ = ["CompressionConfig", "LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration"]


def __getattr__(name: str) -> Any:
    """Resolves the public names lazily: `llava.model.configuration` must be importable without torch."""
    if name == "CompressionConfig":
        return import_module("llava.model.configuration").CompressionConfig
    if name in __all__:
        return getattr(import_module("llava.model.llava_arch"), name)
    raise AttributeError(f"module 'llava.model' has no attribute {name!r}")
