"""The config.json of the original: `model_type` llava, and two towers that are named by their repositories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig

from llava.model.checkpoints.config_adapter import adapt_config
from llava.model.checkpoints.files import CheckpointError, read_json, resolve_checkpoint
from llava.model.families.video_llava.model import VideoLlavaConfig
from llava.model.families.video_llava.tower import LanguageBindVideoConfig
from llava.plain_files import expanded
from llava.plain_loading import config_from

TEMPLATE = "llava_v1"

_CLIP_L_224 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}
_PUBLISHED = {
    "LanguageBind/LanguageBind_Image": _CLIP_L_224,
    "LanguageBind/LanguageBind_Video_merge": {**_CLIP_L_224, "add_time_attn": True, "num_frames": 8},
}
_KNOWN = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size"),
    *("patch_size", "hidden_act", "layer_norm_eps", "attention_dropout", "projection_dim"),
)


def read_config(raw: Mapping[str, Any], folder: Path) -> VideoLlavaConfig:
    """The whole model's config: of the towers' own repositories their config.json alone is read.

    Args:
        raw: The checkpoint's config.json.
        folder: Where it lies.

    Raises:
        CheckpointError: A tower's config cannot be had, or an entry has a value that is not supported.
    """
    if raw.get("mm_use_x_start_end") or raw.get("mm_use_x_patch_token"):
        raise CheckpointError(
            f"{folder}: config.json: mm_use_x_start_end and mm_use_x_patch_token put tokens of their own around images "
            "and videos, which is not supported; only false is"
        )
    towers = {entry: _tower_entries(raw, entry, folder) for entry in ("mm_image_tower", "mm_video_tower")}
    image, video = ({name: entries[name] for name in _KNOWN if name in entries} for entries in towers.values())
    if towers["mm_image_tower"].get("add_time_attn"):
        raise CheckpointError(f"{folder}: config.json: mm_image_tower: add_time_attn is true, which is for videos")
    config = adapt_config(raw, config_from(CLIPVisionConfig, image, folder), folder)
    if towers["mm_video_tower"].get("add_time_attn"):
        video["num_frames"] = towers["mm_video_tower"].get("num_frames", 8)
        config.video_config = config_from(LanguageBindVideoConfig, video, folder)
    else:
        config.video_config = config_from(CLIPVisionConfig, video, folder)
    if getattr(config, "conv_mode", None) is None:
        config.conv_mode = TEMPLATE
    return config


def _tower_entries(raw: Mapping[str, Any], entry: str, beside: Path) -> dict[str, Any]:
    """What a tower's config.json says of it; of the published towers that is known."""
    named = raw.get(entry)
    if not isinstance(named, str) or not named:
        raise CheckpointError(f"{beside}: config.json: {entry} is {named!r}, and must name a tower of LanguageBind")
    folder = next((place for place in (beside / named, expanded(named)) if place.is_dir()), None)
    if folder is None and named in _PUBLISHED:
        return dict(_PUBLISHED[named])
    try:
        folder = folder or resolve_checkpoint(named, weights=False)
        found = read_json(folder / "config.json")
    except CheckpointError as error:
        raise CheckpointError(f"{beside}: config.json: {entry}: {error}") from error
    parts = [found.get(name) for name in ("vision_config", "vision_config_dict")]
    entries = {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}
    if not entries:
        raise CheckpointError(f"{folder}: config.json: vision_config is missing; is this a tower of LanguageBind?")
    return entries


__all__ = ["TEMPLATE", "read_config"]
