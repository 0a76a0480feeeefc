"""LLaVA's config.json -> transformers' config. LLaVA's own entries stay readable as extra entries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import CONFIG_MAPPING
from transformers.configuration_utils import PretrainedConfig

from llava.kinds.families import FAMILIES, family_of_llava
from llava.kinds.languages import language_of_llava
from llava.kinds.towers import entries_of_next
from llava.model.checkpoints.files import CheckpointError, read_json, resolve_checkpoint
from llava.model.checkpoints.refusals import refuse_other_families, unknown_language
from llava.model.multimodal_encoder import tower_grid, tower_has_cls
from llava.model.projector_types import projector_depth
from llava.plain_loading import config_from, config_of, reason

if TYPE_CHECKING:
    from llava.model.llava_config import LlavaConfig, LlavaNextConfig

_SELECT_STRATEGY = {"patch": "default", "cls_patch": "full"}

# Entries of LLaVA that are about the whole model; the others describe its language model.
_WHOLE_MODEL_PREFIXES = ("mm_", "image_", "tokenizer_", "tune_mm_", "freeze_mm_", "unfreeze_mm_")
_WHOLE_MODEL_ENTRIES = (
    *("use_mm_proj", "max_sequence_length", "compression", "compression_range", "conv_mode", "conv_mode_plugin"),
)
_DROPPED = ("model_type", "architectures", "auto_map", "_name_or_path", "transformers_version", "torch_dtype", "dtype")


def is_llava_format(raw: Mapping[str, Any]) -> bool:
    """Whether a config.json is LLaVA's own; one with `text_config` is transformers', whatever LLaVA left in it."""
    is_nested = "vision_config" in raw or "text_config" in raw
    return not is_nested and any(entry in raw for entry in ("mm_vision_tower", "mm_projector_type"))


def is_transformers_format(raw: Mapping[str, Any]) -> bool:
    """Whether a config.json is transformers', of one of the families."""
    return "vision_config" in raw and FAMILIES.find(str(raw.get("model_type"))) is not None


def not_a_llava(raw: Mapping[str, Any], folder: Path) -> CheckpointError:
    """What to raise where a config.json is of neither format."""
    families = " or ".join(FAMILIES.names())
    if "text_config" in raw and "vision_config" not in raw:
        return CheckpointError(f"{folder}: config.json: vision_config is missing; text_config is there")
    return CheckpointError(
        f"{folder}: config.json: model_type {raw.get('model_type')!r} is not a LLaVA: it has neither "
        f"mm_vision_tower (LLaVA's format) nor vision_config with model_type {families} (transformers'). A family from "
        "outside this package comes with --plugin"
    )


def vision_config_from(path_or_repo: str | Path) -> PretrainedConfig:
    """The config of a vision tower, from its own folder or from that of a whole model of text and images.

    Raises:
        CheckpointError: The folder cannot be had, or holds another kind of model.
    """
    folder = resolve_checkpoint(path_or_repo)
    config = config_of(folder)
    config = getattr(config, "vision_config", config)
    try:
        tower_has_cls(config)  # refuses a kind of tower that is not supported
        tower_grid(config)
    except ValueError as error:
        raise CheckpointError(f"{folder}: not a vision tower: {error}") from error
    return config


def tower_folder(raw: Mapping[str, Any], beside: Path, *, weights: bool) -> Path:
    """The folder of `mm_vision_tower`: a path (also relative to the checkpoint) or a repository.

    Args:
        raw: LLaVA's config.json.
        beside: The checkpoint's folder.
        weights: Whether the tower's weights are needed, or its configs alone.

    Raises:
        CheckpointError: The entry is missing, or what it names cannot be had.
    """
    named = raw.get("mm_vision_tower") or raw.get("vision_tower")
    if not named:
        raise CheckpointError(f"{beside}: config.json: mm_vision_tower is missing")
    relative = beside / str(named)
    try:
        return relative if relative.is_dir() else resolve_checkpoint(named, weights=weights)
    except CheckpointError as error:
        raise CheckpointError(f"{beside}: config.json: mm_vision_tower: {error}") from error


def read_config(folder: Path) -> tuple[LlavaConfig | LlavaNextConfig, Path]:
    """The config of a whole checkpoint in either format, and the folder of its image processor; no weights are read.

    Raises:
        CheckpointError: config.json is missing, is of another kind of model, or has an entry that is not supported.
    """
    raw = read_json(folder / "config.json")
    refuse_other_families(raw, folder)
    if is_llava_format(raw):
        reader = family_of_llava(raw).llava_reader()
        if reader is not None:
            return reader(raw, folder), folder
        tower = tower_folder(raw, folder, weights=False)
        return adapt_config(raw, vision_config_from(tower), folder), tower
    if not is_transformers_format(raw):
        raise not_a_llava(raw, folder)
    family = FAMILIES.get(raw["model_type"])
    config = config_from(family.config(), raw, folder)
    if family.aspect_ratio is not None and getattr(config, "image_aspect_ratio", None) is None:
        config.image_aspect_ratio = family.aspect_ratio
    return config, folder


def adapt_config(raw: Mapping[str, Any], vision_config: PretrainedConfig, where: Path) -> LlavaConfig | LlavaNextConfig:
    """Makes transformers' config of LLaVA's.

    Pinpoints turn from LLaVA's (w, h) into transformers' (h, w); the rounding of LLaVA's unpadding is kept by the extra
    entry `anyres_rule`. The image token, which LLaVA's vocabulary does not have, gets the first id after it.

    Args:
        raw: LLaVA's config.json.
        vision_config: Of the tower.
        where: The folder, for messages.

    Raises:
        CheckpointError: An entry has a value that is not supported.
    """
    model_type = raw.get("model_type")
    language = language_of_llava(raw)
    if language is None:
        raise unknown_language(model_type, where)
    projector_type = raw.get("mm_projector_type") or "linear"
    try:
        projector_depth(projector_type)
    except ValueError as error:
        raise CheckpointError(f"{where}: config.json: {error}") from error
    select = raw.get("mm_vision_select_feature", "patch")
    if select not in _SELECT_STRATEGY:
        raise CheckpointError(f"{where}: config.json: mm_vision_select_feature {select!r} is none of patch, cls_patch")

    text_entries = {name: value for name, value in raw.items() if not _is_whole_model(name) and name not in _DROPPED}
    text_config = config_from(CONFIG_MAPPING[language.model_type], text_entries, where)
    has_cls = tower_has_cls(vision_config)
    merge_type = raw.get("mm_patch_merge_type") or "flat"
    aspect_ratio = raw.get("image_aspect_ratio") or "square"
    entries: dict[str, Any] = {
        **{name: value for name, value in raw.items() if _is_whole_model(name) and name != "image_grid_pinpoints"},
        "vision_config": vision_config,
        "text_config": text_config,
        "vision_feature_layer": raw.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": _SELECT_STRATEGY[select] if has_cls else "full",
        "mm_projector_type": projector_type,
        "projector_hidden_act": "gelu",
        "image_token_index": text_config.vocab_size,
        "tie_word_embeddings": bool(raw.get("tie_word_embeddings", False)),
        "image_aspect_ratio": aspect_ratio,
        "mm_patch_merge_type": merge_type,
        "anyres_rule": "llava",
    }
    if language.next_class in (raw.get("architectures") or ()):  # also of LLaVA-NeXT's models that cut no tiles
        entries |= entries_of_next(vision_config)
    try:
        family = family_of_llava(raw)
        return family.config()(**(entries | family.config_entries(raw, vision_config)))
    except Exception as error:  # of transformers' own checks, which are of any type
        raise CheckpointError(f"{where}: config.json: {reason(error)}") from error


def _is_whole_model(name: str) -> bool:
    return name.startswith(_WHOLE_MODEL_PREFIXES) or name in _WHOLE_MODEL_ENTRIES
