"""Vision towers, and the features that they give a compressor."""

from llava.kinds.towers import TOWERS
from llava.model.multimodal_encoder.features import (
    extract_features,
    received_attention,
    saliency_of_layers,
    selected_depth,
    tower_grid,
    tower_has_cls,
)

__all__ = [
    "extract_features",
    "received_attention",
    "saliency_of_layers",
    "selected_depth",
    "tower_grid",
    "tower_has_cls",
]

TOWERS.import_builtin()  # a tower may be looked up first inside a compiled graph
