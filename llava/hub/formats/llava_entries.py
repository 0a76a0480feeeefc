"""transformers' config -> LLaVA's config.json, the other way of `llava.model.checkpoints.config_adapter`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llava.hub.formats.hf import without_local_paths
from llava.kinds.families import family_of
from llava.kinds.languages import LanguageKind, find_language
from llava.kinds.towers import tower_kind
from llava.model.checkpoints.files import CheckpointError
from llava.model.configuration import as_compression

# What transformers 4.37, for which LLaVA was written, has in a config of Llama or Mistral.
_LANGUAGE_ENTRIES = (
    *("attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size"),
    *("initializer_range", "intermediate_size", "max_position_embeddings", "num_attention_heads"),
    *("num_hidden_layers", "num_key_value_heads", "pad_token_id", "pretraining_tp", "rms_norm_eps"),
    *("sliding_window", "use_cache", "vocab_size"),
)
_LLAVA_PREFIXES = ("mm_", "image_", "tokenizer_", "tune_mm_", "freeze_mm_", "unfreeze_mm_")
_LLAVA_ENTRIES = ("use_mm_proj", "max_sequence_length", "conv_mode", "conv_mode_plugin", "compression_range")
_TRANSFORMERS_OWN = ("image_token_index", "image_token_id", "image_seq_length", "image_grid_pinpoints")


def llava_config(config: Any, dtype: str, where: str, language: LanguageKind) -> dict[str, Any]:
    """LLaVA's config.json for a model; `mm_vision_tower` only if the config has it.

    Args:
        config: transformers' `llava` or `llava_next` config, with LLaVA's entries or without.
        dtype: Of the weights.
        where: The checkpoint, for messages.
        language: Of `known_to_llava`.

    Raises:
        CheckpointError: haotian-liu/LLaVA, or transformers 4.37 under it, has no word for what an entry says.
    """
    text, vision = config.text_config, config.vision_config
    family = family_of(config)
    own = {
        name: value
        for name, value in json.loads(config.to_json_string(use_diff=True)).items()
        if (name.startswith(_LLAVA_PREFIXES) or name in _LLAVA_ENTRIES) and name not in _TRANSFORMERS_OWN
    }
    tower = {name: own.pop(name) for name in ("mm_vision_tower",) if name in own}  # LLaVA needs it, wherever it lies
    text_entries = {name: getattr(text, name) for name in _LANGUAGE_ENTRIES if hasattr(text, name)}
    entries: dict[str, Any] = {
        "mm_hidden_size": vision.hidden_size,
        "mm_patch_merge_type": family.merge_type,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "use_mm_proj": True,
        **({"image_aspect_ratio": family.aspect_ratio} if family.aspect_ratio else {}),
        **text_entries,
        **_rope(text, where),
        **tower,
        **without_local_paths(own, Path(where), []),
        "architectures": [language.llava_class],
        "model_type": language.llava_model_types[0],
        "mm_vision_select_feature": "patch" if config.vision_feature_select_strategy == "default" else "cls_patch",
        "mm_vision_select_layer": config.vision_feature_layer,
        "tie_word_embeddings": bool(config.tie_word_embeddings),
        "torch_dtype": dtype,
    }
    if family.is_tiled:  # (w, h) here, (h, w) there
        entries["image_grid_pinpoints"] = [[width, height] for height, width in config.image_grid_pinpoints]
    budget = as_compression(getattr(config, "compression", None))
    if budget is not None:
        entries["compression"] = budget.to_dict()
    return entries


def known_to_llava(config: Any, where: str) -> LanguageKind:
    """The kind of the language model.

    Raises:
        CheckpointError: Something about the model is unknown to haotian-liu/LLaVA.
    """
    text = config.text_config
    kind = find_language(text)
    head_dim = getattr(text, "head_dim", None)
    family = family_of(config)
    unusual = {
        "family": (family.name, family.known_to_llava),
        "text_config.model_type": (text.model_type, kind is not None),
        "language model": (kind.name if kind else None, kind is None or kind.llava_class is not None),
        "text_config.head_dim": (head_dim, head_dim in (None, text.hidden_size // text.num_attention_heads)),
        "text_config.mlp_bias": (getattr(text, "mlp_bias", False), not getattr(text, "mlp_bias", False)),
        "vision_config.model_type": (
            config.vision_config.model_type,
            tower_kind(config.vision_config).known_to_llava,
        ),
        "vision_feature_layer": (config.vision_feature_layer, isinstance(config.vision_feature_layer, int)),
        "projector_hidden_act": (config.projector_hidden_act, config.projector_hidden_act == "gelu"),
        "multimodal_projector_bias": (config.multimodal_projector_bias, config.multimodal_projector_bias),
    }
    refused = [f"{name} {value!r}" for name, (value, is_known) in unusual.items() if not is_known]
    if refused or kind is None:
        raise CheckpointError(f"{where}: config.json: {', '.join(refused)}: haotian-liu/LLaVA knows no such model")
    return kind


def _rope(text: Any, where: str) -> dict[str, Any]:
    """The rotary embedding as transformers 4.37 writes it."""
    rope = dict(getattr(text, "rope_parameters", None) or {})
    kind = rope.get("rope_type", "default")
    theta = {"rope_theta": float(rope.get("rope_theta", 10000.0))}
    if kind == "default":
        return {**theta, **({"rope_scaling": None} if text.model_type == "llama" else {})}
    if kind not in ("linear", "dynamic") or text.model_type != "llama":
        raise CheckpointError(
            f"{where}: config.json: text_config.rope_parameters of type {kind!r}: transformers 4.37, which "
            "haotian-liu/LLaVA needs, knows 'linear' and 'dynamic' for Llama only"
        )
    return {**theta, "rope_scaling": {"type": kind, "factor": float(rope["factor"])}}
