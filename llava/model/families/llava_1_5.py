"""LLaVA-1.5: an image is one square tile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava.kinds.families import Family, register_family


def _config_entries(raw: Mapping[str, Any], vision_config: Any) -> dict[str, Any]:
    return {"image_seq_length": (vision_config.image_size // vision_config.patch_size) ** 2}


LLAVA_1_5 = register_family(
    Family(
        name="LLaVA-1.5",
        model_type="llava",
        config_class="llava.model.llava_config:LlavaConfig",
        model_class="llava.model.llava_arch:LlavaForConditionalGeneration",
        processor_class="llava.model.processing:LlavaProcessor",
        transformers_model="LlavaForConditionalGeneration",
        transformers_processor="LlavaProcessor",
        image_processors={"LlavaImageProcessor": "LlavaImageProcessorPil"},
        known_to_llava=True,
        config_entries=_config_entries,
    )
)
