"""LLaVA-NeXT (LLaVA-1.6): an image is a base tile and the tiles of the grid that fits it best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava.images.processing import parse_pinpoints
from llava.kinds.families import Family, register_family


def _fits_llava(raw: Mapping[str, Any]) -> bool:
    aspect_ratio, merge_type = raw.get("image_aspect_ratio") or "", raw.get("mm_patch_merge_type") or ""
    return str(aspect_ratio).startswith("anyres") or str(merge_type).startswith("spatial")


def _config_entries(raw: Mapping[str, Any], vision_config: Any) -> dict[str, Any]:
    """(h, w) of each pinpoint, from LLaVA's (w, h), which may also be written as a string."""
    given = raw.get("image_grid_pinpoints")
    if given is None and not str(raw.get("image_aspect_ratio")).startswith("anyres"):
        given = [[vision_config.image_size, vision_config.image_size]]  # spatial, but no image is ever tiled
    return {"image_grid_pinpoints": [[height, width] for width, height in parse_pinpoints(given or ())]}


LLAVA_NEXT = register_family(
    Family(
        name="LLaVA-NeXT",
        model_type="llava_next",
        config_class="llava.model.llava_config:LlavaNextConfig",
        model_class="llava.model.llava_arch:LlavaNextForConditionalGeneration",
        processor_class="llava.model.processing:LlavaNextProcessor",
        transformers_model="LlavaNextForConditionalGeneration",
        transformers_processor="LlavaNextProcessor",
        image_processors={"LlavaNextImageProcessor": "CLIPImageProcessorPil"},
        transformers_tiles="LlavaNextImageProcessorPil",
        known_to_llava=True,
        config_entries=_config_entries,
        fits_llava=_fits_llava,
        is_tiled=True,
        has_newline=True,
        merge_type="spatial_unpad",
        aspect_ratio="anyres",
    )
)
