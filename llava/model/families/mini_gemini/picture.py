"""The larger picture that an image is to a Mini-Gemini, and what its sizes must be."""

from __future__ import annotations

from typing import Any

from llava.kinds.families import Picture

_USUAL_SIDE = 768  # of any that a checkpoint says nothing of, which loading refuses


def picture_of(config: Any) -> Picture:
    """The larger picture, and the views that CLIP gets of it: the whole if there are parts, then these row by row.

    Args:
        config: Of a Mini-Gemini, or any object with the entries of one.
    """
    grid, side = (
        int(getattr(config, "image_grid", None) or 1),
        int(getattr(config, "image_size_aux", None) or _USUAL_SIDE),
    )
    return Picture(side, grid**2 + int(grid > 1 and bool(getattr(config, "image_global", False))))


def check_picture(side: int, grid: int, has_global: bool, vision_config: Any) -> None:
    """Refuses a larger picture whose map cannot be shared out among the patches.

    Args:
        side: Its `image_size_aux`.
        grid: Its `image_grid`.
        has_global: Its `image_global`.
        vision_config: CLIP's.

    Raises:
        ValueError: Each part of the picture must have as many whole squares of the map as CLIP has patches.
    """
    across = grid * (vision_config.image_size // vision_config.patch_size)
    if has_global and grid == 1:
        raise ValueError(
            "image_global is true and image_grid 1: there are no parts beside which the whole could be seen"
        )
    if side % (4 * across):
        raise ValueError(
            f"image_size_aux {side} with image_grid {grid}: ConvNeXt's map has {side / 4:g} places a side, and they "
            f"cannot be shared out among {across} patches a side; a multiple of {4 * across} can"
        )
