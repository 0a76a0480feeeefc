"""Transformers' image processors that make LLaVA's pixels by themselves, fit for plain transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llava.kinds.families import Family

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

_USUAL_TILES = "LlavaNextImageProcessorPil"


def standalone_image_processor(
    image_processor: Any, aspect_ratio: str | None, pinpoints: Sequence[tuple[int, int]], family: Family
) -> BaseImageProcessor:
    """The processor that pads, or cuts tiles, where a tower's own processor leaves that to LLaVA.

    Args:
        image_processor: A tower's (CLIP, SigLIP), or a whole one already.
        aspect_ratio: What the model's config says.
        pinpoints: (w, h) of each grid.
        family: Of the model.

    Returns:
        That of the family which cuts tiles (`Family.transformers_tiles`), LLaVA's with `do_pad` where images are
        padded, else the same processor.
    """
    import transformers
    from transformers import LlavaImageProcessorPil

    if family.is_tiled:
        grids = [[height, width] for width, height in pinpoints]
        made: BaseImageProcessor = getattr(transformers, family.transformers_tiles or _USUAL_TILES)(
            **_fields(image_processor), image_grid_pinpoints=grids
        )
        return made
    if aspect_ratio == "pad":
        return LlavaImageProcessorPil(**{**_fields(image_processor), "do_pad": True})
    return image_processor


def view_processor(image_processor: Any) -> BaseImageProcessor:
    """The processor of one tile, from that of LLaVA-NeXT, which makes all of an image."""
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

    fields = _fields(image_processor)
    if fields.get("do_center_crop", True):
        return CLIPImageProcessorPil(**fields)
    return SiglipImageProcessorPil(**{name: value for name, value in fields.items() if "crop" not in name})


def _fields(image_processor: Any) -> dict[str, Any]:
    """What an image processor does to pixels, whatever its class."""
    names = ("size", "resample", "do_resize", "rescale_factor", "do_rescale", "do_normalize", "image_mean", "image_std")
    fields = {name: getattr(image_processor, name) for name in names}
    fields["do_convert_rgb"] = True
    crops = bool(getattr(image_processor, "do_center_crop", None))
    # A processor that does not crop resizes to the tile; LLaVA-NeXT's asks for the tile's size all the same.
    fields |= {"do_center_crop": crops, "crop_size": image_processor.crop_size if crops else image_processor.size}
    return fields
