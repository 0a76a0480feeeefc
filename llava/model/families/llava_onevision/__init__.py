"""LLaVA-OneVision (Li et al., 2024): SigLIP, and tiles whose canvas shrinks to a bound, `anyres_max_N`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava.images.rules import most_tiles, parse_pinpoints
from llava.kinds.clips import ClipRules
from llava.kinds.families import Family, register_family
from llava.kinds.towers import entries_of_next


def _fits_llava(raw: Mapping[str, Any]) -> bool:
    ratio = raw.get("image_aspect_ratio")
    return isinstance(ratio, str) and most_tiles(ratio) is not None


def _config_entries(raw: Mapping[str, Any], vision_config: Any) -> dict[str, Any]:
    """Pinpoints (h, w), and of the tower what LLaVA-NeXT's code uses."""
    if raw.get("mm_resampler_type") is not None:
        raise ValueError(f"mm_resampler_type {raw['mm_resampler_type']!r} is not supported; only null is")
    pinpoints = parse_pinpoints(raw.get("image_grid_pinpoints") or (), vision_config.image_size)
    return {
        "image_grid_pinpoints": [[height, width] for width, height in pinpoints],
        "vision_aspect_ratio": raw["image_aspect_ratio"],
        **entries_of_next(vision_config),
    }


LLAVA_ONEVISION = register_family(
    Family(
        name="LLaVA-OneVision",
        model_type="llava_onevision",
        config_class="llava.model.families.llava_onevision.model:LlavaOnevisionConfig",
        model_class="llava.model.families.llava_onevision.model:LlavaOnevisionForConditionalGeneration",
        processor_class="llava.model.families.llava_onevision.processor:LlavaOnevisionProcessor",
        transformers_model="LlavaOnevisionForConditionalGeneration",
        transformers_processor="LlavaOnevisionProcessor",
        image_processors={"LlavaOnevisionImageProcessor": "SiglipImageProcessorPil"},
        transformers_tiles="LlavaOnevisionImageProcessorPil",
        transformers_ratio="anyres_max_[0-9]+",
        config_entries=_config_entries,
        fits_llava=_fits_llava,
        part_of="llava_next",
        is_tiled=True,
        tiles_several=False,
        clips=ClipRules(32),
        has_newline=True,
        merge_type="spatial_unpad",
        aspect_ratio="anyres_max_9",
    )
)
