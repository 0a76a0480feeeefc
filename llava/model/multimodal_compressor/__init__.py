"""Compressors: pure functions of tensors, and a registry. They know nothing of models."""

from llava.model.multimodal_compressor.registry import (
    COMPRESSORS,
    BoundCompressor,
    Compressor,
    available_compressors,
    compressor_of,
    get_compressor,
    register_compressor,
)
from llava.model.multimodal_compressor.types import (
    ClipJoint,
    CompressedTokens,
    Place,
    QuestionEmbeds,
    TileShape,
    VisionFeatures,
    keep_patches,
)
from llava.model.multimodal_compressor.visionzip import visionzip

__all__ = [
    "COMPRESSORS",
    "BoundCompressor",
    "ClipJoint",
    "CompressedTokens",
    "Compressor",
    "Place",
    "QuestionEmbeds",
    "TileShape",
    "VisionFeatures",
    "available_compressors",
    "compressor_of",
    "get_compressor",
    "keep_patches",
    "register_compressor",
    "visionzip",
]
