"""LLaVA with VisionZip: a compressor between the vision tower and the projector.

Importing this package loads neither torch nor transformers; the names below are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava.model.auto import AutoLlava, AutoLlavaProcessor
    from llava.model.builder import load_pretrained_model
    from llava.model.configuration import CompressionConfig
    from llava.model.families.llava_onevision.model import LlavaOnevisionForConditionalGeneration
    from llava.model.families.llava_onevision.processor import LlavaOnevisionProcessor
    from llava.model.families.mini_gemini.model import MiniGeminiForConditionalGeneration
    from llava.model.families.mini_gemini.processor import MiniGeminiProcessor
    from llava.model.llava_arch import LlavaForConditionalGeneration, LlavaNextForConditionalGeneration
    from llava.model.processing import LlavaNextProcessor, LlavaProcessor

__version__ = "0.1.0"
__all__ = [
    "AutoLlava",
    "AutoLlavaProcessor",
    "CompressionConfig",
    "LlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration",
    "LlavaNextProcessor",
    "LlavaOnevisionForConditionalGeneration",
    "LlavaOnevisionProcessor",
    "LlavaProcessor",
    "MiniGeminiForConditionalGeneration",
    "MiniGeminiProcessor",
    "__version__",
    "load_pretrained_model",
]

_HOME_OF = {
    "AutoLlava": "llava.model.auto",
    "AutoLlavaProcessor": "llava.model.auto",
    "CompressionConfig": "llava.model.configuration",
    "LlavaForConditionalGeneration": "llava.model.llava_arch",
    "LlavaNextForConditionalGeneration": "llava.model.llava_arch",
    "LlavaNextProcessor": "llava.model.processing",
    "LlavaOnevisionForConditionalGeneration": "llava.model.families.llava_onevision.model",
    "LlavaOnevisionProcessor": "llava.model.families.llava_onevision.processor",
    "LlavaProcessor": "llava.model.processing",
    "MiniGeminiForConditionalGeneration": "llava.model.families.mini_gemini.model",
    "MiniGeminiProcessor": "llava.model.families.mini_gemini.processor",
    "load_pretrained_model": "llava.model.builder",
}


def __getattr__(name: str) -> Any:
    """Resolves the public names lazily, so that `import llava` stays instant."""
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'llava' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
