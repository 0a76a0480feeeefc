"""Vision towers, and what they tell a compressor."""

from llava.model.multimodal_encoder.features import (
    TOWERS_WITH_CLS,
    extract_features,
    received_attention,
    selected_depth,
    tower_has_cls,
)

__all__ = ["TOWERS_WITH_CLS", "extract_features", "received_attention", "selected_depth", "tower_has_cls"]
