"""The sizes of a second tower: the published one's, and which can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONVNEXT_L = {"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]}
"""Widths and depths of the stages of open_clip's `convnext_large_d_320`."""


def check_sizes(aux_config: Mapping[str, Any]) -> None:
    """Refuses widths and depths of which no ConvNeXt can be made.

    Args:
        aux_config: Of the model's config.

    Raises:
        ValueError: One of the two lists is missing or empty, or they differ in length.
    """
    sizes, depths = aux_config.get("hidden_sizes"), aux_config.get("depths")
    if not sizes or not depths or len(sizes) != len(depths):
        raise ValueError(
            f"aux_config has the hidden_sizes {sizes} and the depths {depths}: give one of each for every stage of the "
            "ConvNeXt"
        )
