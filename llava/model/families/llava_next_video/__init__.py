"""LLaVA-NeXT-Video (Zhang et al., 2024), its -hf format: LLaVA-NeXT, and videos whose frames are pooled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava.kinds.clips import ClipRules
from llava.kinds.families import Family, register_family

_ROOM = "llava.model.families.llava_next_video"


def _config_entries(raw: Mapping[str, Any], vision_config: Any) -> dict[str, Any]:
    return {}


LLAVA_NEXT_VIDEO = register_family(
    Family(
        name="LLaVA-NeXT-Video",
        model_type="llava_next_video",
        config_class=f"{_ROOM}.model:LlavaNextVideoConfig",
        model_class=f"{_ROOM}.model:LlavaNextVideoForConditionalGeneration",
        processor_class=f"{_ROOM}.processor:LlavaNextVideoProcessor",
        image_processors={"LlavaNextVideoImageProcessor": "CLIPImageProcessorPil"},
        transformers_tiles="LlavaNextImageProcessorPil",
        config_entries=_config_entries,
        fits_llava=lambda raw: False,
        clips=ClipRules(8),
        is_tiled=True,
        has_newline=True,
        merge_type="spatial_unpad",
        aspect_ratio="anyres",
        no_training="a LLaVA-NeXT-Video is not trained here: its data are videos; it answers and is evaluated",
        no_transformers="it is of transformers' format already; copy the folder",
    )
)
