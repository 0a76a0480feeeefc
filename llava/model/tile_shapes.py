"""What a model's tiles are to a compressor: the facts of its tower and of its family, put together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from llava.kinds.families import Family, family_of
from llava.model.multimodal_compressor import Place, TileShape
from llava.model.multimodal_encoder import tower_grid, tower_has_cls


def tile_shape(config: Any) -> TileShape:
    """Of a model's config.

    Raises:
        ValueError: The tower is of a kind that is not supported, or its image has no whole patch.
    """
    shape = shape_of(family_of(config), tower_grid(config.vision_config), tower_has_cls(config.vision_config))
    return replace(shape, projected_width=config.get_text_config().hidden_size)


def shape_of(family: Family, grid: tuple[int, int], has_cls: bool) -> TileShape:
    """Of a family.

    Args:
        family: Of the model.
        grid: (h, w), patches of a tile.
        has_cls: Whether the tower has a CLS token.
    """
    places = cast(tuple[Place, ...], family.places)
    return TileShape(grid, has_cls, has_cls and family.keeps_cls, family.cls_counts, places)
