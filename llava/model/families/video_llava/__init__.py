"""Video-LLaVA (Lin et al., EMNLP 2024): a tower for images and one for videos, in its own format and in the -hf one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava.kinds.clips import ClipRules
from llava.kinds.families import Family, register_family

_ROOM = "llava.model.families.video_llava"
_FRAMES = 8
_PLACES = ("tower", "pixels", "projected")
_NO_TRAINING = (
    "a Video-LLaVA is not trained here: its recipe (which data, whether patches are dropped) is not known well enough "
    "to be met; it answers and is evaluated"
)


def _fits_llava(raw: Mapping[str, Any]) -> bool:
    return bool(raw.get("mm_video_tower"))


def _config_entries(raw: Mapping[str, Any], vision_config: Any) -> dict[str, Any]:
    return {"image_seq_length": (vision_config.image_size // vision_config.patch_size) ** 2}


VIDEO_LLAVA = register_family(
    Family(
        name="Video-LLaVA",
        model_type="video_llava_original",
        config_class=f"{_ROOM}.model:VideoLlavaConfig",
        model_class=f"{_ROOM}.model:VideoLlavaForConditionalGeneration",
        processor_class=f"{_ROOM}.processor:VideoLlavaProcessor",
        config_entries=_config_entries,
        fits_llava=_fits_llava,
        clips=ClipRules(_FRAMES, is_fixed=True, marks_frames=True, keeps_cls=True, places=_PLACES),
        read_llava=f"{_ROOM}.files:read_config",
        image_processor=f"{_ROOM}.pixels:processor_of",
        no_training=_NO_TRAINING,
        no_transformers="its class has no place for the attention over time, and drops those tensors without a word",
    )
)

VIDEO_LLAVA_HF = register_family(
    Family(
        name="Video-LLaVA (-hf)",
        model_type="video_llava",
        config_class=f"{_ROOM}.model:VideoLlavaHFConfig",
        model_class=f"{_ROOM}.model:VideoLlavaHFForConditionalGeneration",
        processor_class=f"{_ROOM}.processor:VideoLlavaHFProcessor",
        image_processors={"VideoLlavaImageProcessor": "CLIPImageProcessorPil"},
        config_entries=_config_entries,
        fits_llava=lambda raw: False,
        clips=ClipRules(_FRAMES, "arange", is_fixed=True, marks_frames=True, keeps_cls=True, places=_PLACES),
        vision_parts=("video_tower",),
        tower_in_files="image_tower",
        warning=(
            "the -hf format of Video-LLaVA is not the model that was published: its video tower lacks the attention "
            "over time and the positions in time of every layer, and both towers use quick_gelu where the model was "
            "trained with gelu. Expect other, worse answers about videos; LanguageBind/Video-LLaVA-7B is the original"
        ),
        no_training=_NO_TRAINING,
        no_transformers="it is of transformers' format already; copy the folder",
    )
)
