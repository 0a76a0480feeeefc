"""Compressors: pure functions of tensors, and a registry. They know nothing of models."""

from llava.model.multimodal_compressor import baselines as _baselines  # registers random and uniform
from llava.model.multimodal_compressor.registry import (
    Compressor,
    available_compressors,
    get_compressor,
    register_compressor,
)
from llava.model.multimodal_compressor.types import CompressedTokens, VisionFeatures
from llava.model.multimodal_compressor.visionzip import visionzip

__all__ = [
    "CompressedTokens",
    "Compressor",
    "VisionFeatures",
    "available_compressors",
    "get_compressor",
    "register_compressor",
    "visionzip",
]
del _baselines
