"""What a model's config says of images: their form, the grids of tiles, the pixels they become, whether photos turn.

Every size is `(width, height)` in pixels; transformers' configs, which have it the other way, are turned here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

from llava.kinds.families import find_family

Size = tuple[int, int]

_ANYRES = re.compile(r"anyres(_max_[1-9]\d{0,3})?")
_RANGE = re.compile(r"\s*\(\d+x\d+\)(\s*[,.]+\s*\(\d+x\d+\))*\s*")
_MOST_TILES_A_SIDE = 100
_USUAL_SIDE = 384  # pixels; where the image processor is not known: CLIP of 336 and SigLIP take no larger ones


def parse_pinpoints(pinpoints: str | Sequence[Sequence[int]], tile_side: int | None = None) -> list[Size]:
    """Read a list of (width, height); LLaVA's configs hold it as a list or as the text of one.

    Args:
        pinpoints: The list; or with `tile_side` a range of grids in tiles too, `(1x1),...,(6x6)`, of which the first
            and the last are read, as LLaVA-NeXT's code does.
        tile_side: Pixels of a tile's side.

    Raises:
        ValueError: It is neither, or it is empty.
    """
    value: Any = pinpoints
    try:
        if isinstance(value, str) and tile_side is not None and _RANGE.fullmatch(value):
            value = _grids_between(value, tile_side)
        elif isinstance(value, str):
            value = ast.literal_eval(value)
        sizes = [(int(width), int(height)) for width, height in value]
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"image_grid_pinpoints={pinpoints!r} is not a list of (width, height) pairs.") from error
    if not sizes:
        raise ValueError("image_grid_pinpoints is empty: any-resolution images need at least one (width, height).")
    return sizes


def _grids_between(text: str, tile_side: int) -> list[Size]:
    """All grids from the first to the last that a text names, in pixels; at most 100 tiles a side."""
    named = [(int(width), int(height)) for width, height in re.findall(r"\((\d+)x(\d+)\)", text)]
    (first_width, first_height), (last_width, last_height) = named[0], named[-1]
    if max(last_width, last_height) > _MOST_TILES_A_SIDE:
        raise ValueError(f"more than {_MOST_TILES_A_SIDE} tiles a side")
    widths, heights = range(first_width, last_width + 1), range(first_height, last_height + 1)
    return [(width * tile_side, height * tile_side) for width in widths for height in heights]


def grid_pinpoints(config: Any) -> list[Size]:
    """Return a model config's `image_grid_pinpoints` as (width, height), whichever order the config keeps.

    LLaVA's configs hold (width, height), those of transformers (`model_type` llava_next) hold (height, width).

    Raises:
        ValueError: The config has no such entry or a malformed one.
    """
    pinpoints = getattr(config, "image_grid_pinpoints", None)
    if pinpoints is None:
        raise ValueError("the model config has no `image_grid_pinpoints`, which image_aspect_ratio='anyres' needs.")
    sizes = parse_pinpoints(pinpoints)
    family = find_family(config)
    if family is not None and family.is_tiled:
        sizes = [(width, height) for height, width in sizes]
    return sizes


def aspect_ratio_of(config: Any) -> str | None:
    """Return what a config says of an image's form.

    Returns:
        `pad`, `anyres`, `anyres_max_N`, `square` (also named `original`) or None.

    Raises:
        ValueError: It says something else, or `anyres` without a list of `image_grid_pinpoints`.
    """
    aspect_ratio = getattr(config, "image_aspect_ratio", None)
    family = find_family(config)
    if aspect_ratio is None and family is not None:
        aspect_ratio = family.aspect_ratio
    if aspect_ratio == "original":  # lmms-eval's word for what LLaVA does with every word that it does not know
        return "square"
    if aspect_ratio not in (None, "square", "pad") and not cuts_tiles(aspect_ratio):
        raise ValueError(f"image_aspect_ratio={aspect_ratio!r} is unknown; choose pad, anyres, anyres_max_9 or square.")
    if cuts_tiles(aspect_ratio):
        grid_pinpoints(config)
    return aspect_ratio


def cuts_tiles(aspect_ratio: Any) -> bool:
    """Whether images of this form are cut into tiles of a grid: `anyres`, `anyres_max_N`."""
    return isinstance(aspect_ratio, str) and _ANYRES.fullmatch(aspect_ratio) is not None


def most_tiles(aspect_ratio: str | None) -> int | None:
    """N of `anyres_max_N`: an image's canvas shrinks to about as many tiles' patches; None for no bound."""
    found = _ANYRES.fullmatch(aspect_ratio or "")
    return None if found is None or found[1] is None else int(found[1].removeprefix("_max_"))


def one_tile_beside_others(config: Any) -> bool:
    """Whether an image that stands in one prompt with others is padded to one tile, where a lone one would be cut."""
    family = find_family(config)
    return family is not None and not family.tiles_several and cuts_tiles(aspect_ratio_of(config))


def processed_pixels(size: Size, config: Any, processor: Any = None) -> int:
    """Return the pixels of the largest picture that an image is on its way through `process_images`.

    Far more than its own if it is long and thin: `pad` makes a square of its longer side, and without padding its
    shorter side is scaled to the tower's. Tiles are cut from a picture of the grid's size.

    Args:
        size: The image's (width, height).
        config: As `process_images` takes it.
        processor: The image processor; None: its own size does not count, but for an image that is scaled as it is,
            to 384 pixels at most.
    """
    width, height = size
    aspect_ratio = aspect_ratio_of(config)
    if cuts_tiles(aspect_ratio):
        grid = max(across * down for across, down in grid_pinpoints(config))
        view = 0 if processor is None else _resized_pixels((1, 1), processor)  # each is a square
        return max(width * height, grid, view)
    if aspect_ratio == "pad":
        side = max(size)
        return max(side * side, 0 if processor is None else _resized_pixels((side, side), processor))
    return max(width * height, _resized_pixels(size, processor))


def _resized_pixels(size: Size, processor: Any) -> int:
    """The pixels of an image after an image processor's resize, or after its crop, which fills up what is too small."""
    shorter, longer = max(min(size), 1), max(size)
    target = getattr(processor, "size", None)
    if target is None:
        return _USUAL_SIDE * _USUAL_SIDE * longer // shorter
    edge = target.get("shortest_edge")
    resized = edge * edge * longer // shorter if edge else _area(target)
    crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", None) else None
    return max(resized if getattr(processor, "do_resize", True) else 0, _area(crop or {}))


def _area(sides: Any) -> int:
    return int(sides.get("height") or 0) * int(sides.get("width") or 0)


def turns_photos(config: Any) -> bool:
    """Whether images are turned as their EXIF tag says: transformers' rule for paths and URLs, not LLaVA's.

    Args:
        config: The model's config; `anyres_rule` says whose rules it follows, as for tiles and tokens. LLaVA's own
            configs, and objects with some of their entries, have no such entry: LLaVA's rule.
    """
    rule = getattr(config, "anyres_rule", None)
    return rule == "transformers" or (rule is None and find_family(config) is not None)
