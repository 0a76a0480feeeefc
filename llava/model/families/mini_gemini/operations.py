"""Operations of Mini-Gemini's second tower and of patch info mining, counted as `llava.model.flops` counts."""

from __future__ import annotations

from typing import Any

from llava.kinds.families import Picture
from llava.model.families.mini_gemini.picture import picture_of


def second_tower_flops(config: Any) -> int:
    """ConvNeXt over the larger picture, and the mining of all its views.

    Args:
        config: Of a Mini-Gemini.
    """
    picture = picture_of(config)
    return _convnext(config.aux_config, picture.side) + _mining(config, picture)


def _convnext(aux_config: Any, side: int) -> int:
    """Convolutions and matrices of all stages; two operations a multiply-accumulate."""
    sizes, depths = aux_config["hidden_sizes"], aux_config["depths"]
    places = (side // 4) ** 2
    total = places * 2 * 3 * 4**2 * sizes[0]
    for stage, (width, depth) in enumerate(zip(sizes, depths, strict=True)):
        if stage:
            places //= 4
            total += places * 2 * sizes[stage - 1] * 2**2 * width
        total += depth * places * 2 * (7**2 * width + 2 * 4 * width**2)
    return total


def _mining(config: Any, picture: Picture) -> int:
    """Queries of all patches; keys and values of all places of the map, in each view; attention among them."""
    vision, channels = config.vision_config, sum(config.aux_config["hidden_sizes"])
    grid, width = int(config.image_grid or 1), vision.hidden_size
    patches = (vision.image_size // vision.patch_size) ** 2
    places = (picture.side // 4 // grid) ** 2
    return picture.tiles * (patches * 2 * width**2 + places * 2 * (2 * channels * width + 2 * width))
