"""What the entries of a checkpoint's JSON files may be: one table a file, looked at before anything is made of them.

An entry that a table does not name may be anything. Bounds are far above every published model; they keep a number in
a file from asking for more memory than there is before its tensors have been compared with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from llava.constants import MOST_BEAMS

DEEPEST = 32
"""Levels of objects and lists in a file; published ones have four."""

_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class EntryRule:
    """What a value may be.

    Attributes:
        says: In words, for the message.
        fits: Whether a value is so.
    """

    says: str
    fits: Callable[[Any], bool]

    def __or__(self, other: EntryRule) -> EntryRule:
        return EntryRule(f"{self.says} or {other.says}", lambda value: self.fits(value) or other.fits(value))


def _whole(low: int, high: int) -> EntryRule:
    return EntryRule(f"a whole number in {low}..{high}", lambda value: _is_whole(value) and low <= value <= high)


def _number(low: float, high: float) -> EntryRule:
    def fits(value: Any) -> bool:
        return (_is_whole(value) or isinstance(value, float)) and low <= value <= high

    return EntryRule(f"a number in {low:g}..{high:g}", fits)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    """A text that can be printed, written and be the name of a file."""
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _list(of: EntryRule, length: int | None = None) -> EntryRule:
    def fits(value: Any) -> bool:
        return isinstance(value, list) and length in (None, len(value)) and all(map(of.fits, value))

    return EntryRule(f"a list of {'' if length is None else f'{length} values, each '}{of.says}", fits)


def _object(of: EntryRule) -> EntryRule:
    def fits(value: Any) -> bool:
        return isinstance(value, dict) and all(map(of.fits, value.values()))

    return EntryRule(f"an object whose values are {of.says}", fits)


def _is_ratio(value: str) -> bool:
    return re.fullmatch(r"pad|square|anyres(_max_[1-9][0-9]{0,3})?", value) is not None


def _one_of(*values: Any) -> EntryRule:
    def fits(value: Any) -> bool:
        return any(type(value) is type(known) and value == known for known in values)

    return EntryRule("one of " + ", ".join("null" if value is None else str(value) for value in values), fits)


def _is_plain_name(value: Any) -> bool:
    """The name of a file beside: no folder, no drive, nothing hidden behind `..`."""
    return _is_text(value) and PurePosixPath(value).name == PureWindowsPath(value).name == value != ".."


_NULL = EntryRule("null", lambda value: value is None)
_FLAG = EntryRule("true or false", lambda value: isinstance(value, bool))
_TEXT = EntryRule("a text", lambda value: _is_text(value) and value != "")
_ANY_TEXT = EntryRule("a text", _is_text)
_RATIO = EntryRule("pad, anyres, anyres_max_N or square", lambda value: _is_text(value) and _is_ratio(value))
_ANY_OBJECT = EntryRule("an object", lambda value: isinstance(value, dict))
_ANY_LIST = EntryRule("a list", lambda value: isinstance(value, list))
_FILE_NAME = EntryRule("the name of a file beside it", _is_plain_name)

_LAYERS = _whole(1, 1000)
_WIDTH = _whole(1, 2**20)
_HEADS = _whole(1, 2**14)
_ROWS = _whole(1, 2**24)
_LENGTH = _whole(1, 2**31)
_PIXELS = _whole(1, 2**14)
_LAYER_INDEX = _whole(-1001, 1000)
_ID = _whole(-1, 2**24)
_SMALL = _number(1e-12, 1.0)
_SHARE = _number(0.0, 1.0)
_PAIRS = _list(_list(_PIXELS, 2))

_DTYPE = _one_of("float16", "bfloat16", "float32", "float64", "auto", None)

_QUANTISATION: Mapping[str, EntryRule] = {
    "quant_method": _TEXT | _NULL,
    **dict.fromkeys(("load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit"), _FLAG | _NULL),
    **dict.fromkeys(("bnb_4bit_use_double_quant", "llm_int8_has_fp16_weight"), _FLAG | _NULL),
    "llm_int8_enable_fp32_cpu_offload": _FLAG | _NULL,
    "bnb_4bit_quant_type": _one_of("nf4", "fp4", None),
    "bnb_4bit_compute_dtype": _DTYPE,
    "bnb_4bit_quant_storage": _TEXT | _NULL,
    "llm_int8_threshold": _number(0.0, 1e6) | _NULL,
    "llm_int8_skip_modules": _list(_TEXT) | _NULL,
}
_CONFIG: Mapping[str, EntryRule] = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "mm_hidden_size"), _WIDTH),
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _HEADS | _NULL,
    "head_dim": _WIDTH | _NULL,
    "projection_dim": _WIDTH | _NULL,
    "vocab_size": _ROWS,
    "max_position_embeddings": _LENGTH,
    **dict.fromkeys(("image_size", "patch_size"), _PIXELS),
    "num_channels": _whole(1, 64),
    "image_seq_length": _whole(0, 2**24),
    **dict.fromkeys(("image_token_index", "image_token_id"), _whole(0, 2**25)),
    **dict.fromkeys(("bos_token_id", "pad_token_id"), _ID | _NULL),
    "eos_token_id": _ID | _list(_ID) | _NULL,
    **dict.fromkeys(("mm_vision_select_layer", "vision_feature_layer"), _LAYER_INDEX),
    **dict.fromkeys(("rms_norm_eps", "layer_norm_eps"), _SMALL),
    "rope_theta": _number(1e-6, 1e12),
    "sliding_window": _LENGTH | _NULL,
    **dict.fromkeys(("initializer_range", "initializer_factor"), _number(0.0, 1e3)),
    "attention_dropout": _SHARE,
    **dict.fromkeys(("rope_scaling", "rope_parameters"), _ANY_OBJECT | _NULL),
    **dict.fromkeys(("hidden_act", "projector_hidden_act", "model_type"), _TEXT),
    **dict.fromkeys(("vision_feature_select_strategy", "mm_vision_select_feature", "mm_projector_type"), _TEXT | _NULL),
    **dict.fromkeys(("mm_patch_merge_type", "image_aspect_ratio", "anyres_rule"), _TEXT | _NULL),
    "vision_aspect_ratio": _TEXT | _NULL,
    "video_token_index": _whole(0, 2**25),
    **dict.fromkeys(("mm_vision_tower", "vision_tower", "base_model_name_or_path"), _ANY_TEXT | _NULL),
    **dict.fromkeys(("conv_mode", "conv_mode_plugin"), _TEXT | _NULL),
    **dict.fromkeys(("torch_dtype", "dtype"), _DTYPE),
    "return_dict": EntryRule("true, for models here give objects", lambda value: value in (True, None)),
    "is_encoder_decoder": EntryRule("false, for models here are decoders", lambda value: value in (False, None)),
    **dict.fromkeys(("tie_word_embeddings", "mm_use_im_start_end", "mm_use_im_patch_token"), _FLAG | _NULL),
    **dict.fromkeys(("attention_bias", "mlp_bias", "multimodal_projector_bias", "use_cache"), _FLAG | _NULL),
    **dict.fromkeys(("tokenizer_model_max_length", "max_sequence_length"), _LENGTH | _NULL),
    "image_grid_pinpoints": _PAIRS | _TEXT | _NULL,
    "mm_vision_tower_aux": _ANY_TEXT | _NULL,
    "mm_hidden_size_aux": _WIDTH | _NULL,
    "image_size_aux": _PIXELS | _NULL,
    "image_grid": _whole(1, 16) | _NULL,
    "image_global": _FLAG | _NULL,
    "aux_config": _ANY_OBJECT,
    "hidden_sizes": _list(_WIDTH),
    "depths": _list(_LAYERS),
    "quantization_config": _ANY_OBJECT | _NULL,
    "architectures": _list(_TEXT) | _NULL,
    "layer_types": _list(_one_of("full_attention", "sliding_attention")) | _NULL,
    **dict.fromkeys(("text_config", "vision_config", "video_config"), _ANY_OBJECT),
    "vision_config_dict": _ANY_OBJECT | _NULL,
    "num_frames": _whole(1, 4096),
    **dict.fromkeys(("spatial_pool_stride", "mm_spatial_pool_stride"), _whole(1, 4096) | _NULL),
    "auto_map": _ANY_OBJECT | _NULL,
    "compression_range": _object(_ANY_OBJECT) | _NULL,
}
_ADAPTER: Mapping[str, EntryRule] = {
    "peft_type": _TEXT,
    "base_model_name_or_path": _ANY_TEXT | _NULL,
    "r": _whole(1, 2**16),
    "lora_alpha": _number(-1e6, 1e6),
    "rank_pattern": _object(_whole(1, 2**16)) | _NULL,
    "alpha_pattern": _object(_number(-1e6, 1e6)) | _NULL,
    "use_rslora": _FLAG | _NULL,
    "init_lora_weights": _FLAG | _TEXT | _NULL,
    "bias": _TEXT,
    "target_modules": _list(_TEXT) | _TEXT | _NULL,
}
_TOKENIZER: Mapping[str, EntryRule] = {
    "tokenizer_class": _TEXT | _NULL,
    **dict.fromkeys(("legacy", "add_bos_token", "add_eos_token", "add_prefix_space"), _FLAG | _NULL),
    "model_max_length": _number(1, 1e31) | _NULL,
    "added_tokens_decoder": _object(_ANY_OBJECT),
    **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), _TEXT | _ANY_OBJECT | _NULL),
    "padding_side": _TEXT | _NULL,
    "chat_template": _TEXT | _ANY_LIST | _ANY_OBJECT | _NULL,
    "auto_map": _ANY_OBJECT | _NULL,
}
_SIZE = _object(_PIXELS | _NULL) | _PIXELS
_IMAGES: Mapping[str, EntryRule] = {
    **dict.fromkeys(("image_processor_type", "feature_extractor_type"), _TEXT | _NULL),
    **dict.fromkeys(("size", "crop_size"), _SIZE | _NULL),
    "image_mean": _list(_number(-1e3, 1e3), 3) | _NULL,
    "image_std": _list(_number(1e-6, 1e6), 3) | _NULL,
    "rescale_factor": _number(1e-12, 1e6) | _NULL,
    "resample": _whole(0, 5) | _NULL,
    "do_resize": _FLAG | _NULL,
    **dict.fromkeys(("do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb", "do_pad"), _FLAG | _NULL),
    "image_grid_pinpoints": _PAIRS | _NULL,
    **dict.fromkeys(("image_processor", "image_rules"), _ANY_OBJECT | _NULL),
    "image_token_id": _whole(0, 2**25) | _NULL,
    "chat_template": _TEXT | _ANY_LIST | _ANY_OBJECT | _NULL,
    "processor_class": _TEXT | _NULL,
}
_GENERATION: Mapping[str, EntryRule] = {
    **dict.fromkeys(("bos_token_id", "pad_token_id"), _ID | _NULL),
    "eos_token_id": _ID | _list(_ID) | _NULL,
    **dict.fromkeys(("do_sample", "use_cache", "renormalize_logits", "remove_invalid_values"), _FLAG | _NULL),
    "temperature": _number(0.0, 1e3) | _NULL,
    **dict.fromkeys(("top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"), _SHARE | _NULL),
    "top_k": _whole(0, 2**24) | _NULL,
    "repetition_penalty": _number(1e-6, 1e3) | _NULL,
    "length_penalty": _number(-1e3, 1e3) | _NULL,
    "no_repeat_ngram_size": _whole(0, 2**24) | _NULL,
    **dict.fromkeys(("max_length", "max_new_tokens"), _LENGTH | _NULL),
    **dict.fromkeys(("min_length", "min_new_tokens"), _whole(0, 2**31) | _NULL),
    "num_beams": _whole(1, MOST_BEAMS) | _NULL,
    "early_stopping": _FLAG | _one_of("never", None),
    "suppress_tokens": _list(_ID) | _NULL,
    "begin_suppress_tokens": _list(_ID) | _NULL,
}
GENERATION_ENTRIES = frozenset(_GENERATION)
"""Entries of a generation_config.json that are honoured."""

_IMAGE_RULES: Mapping[str, EntryRule] = {
    "aspect_ratio": _RATIO | _NULL,
    **dict.fromkeys(("has_cls", "drops_cls", "is_next"), _FLAG),
    "family": _TEXT,
    "layout": _ANY_OBJECT,
    "merge_type": _one_of("flat", "spatial", "spatial_unpad"),
    "rule": _one_of("llava", "transformers"),
    "pinpoints": _PAIRS,
    "tile_size": _PIXELS,
    "patches_per_side": _PIXELS,
    "most_tiles": _whole(1, 9999) | _NULL,
    "own_tiles": _whole(1, 257),
}
_INDEX: Mapping[str, EntryRule] = {"weight_map": _object(_FILE_NAME)}
_NESTED = (
    "text_config",
    "vision_config",
    "aux_config",
    "video_config",
    "vision_config_dict",
    "image_processor",
    "layout",
)
_TABLE_OF = {"quantization_config": _QUANTISATION, "image_rules": _IMAGE_RULES}

_TABLES: Mapping[str, Mapping[str, EntryRule]] = {
    "config.json": _CONFIG,
    "adapter_config.json": _ADAPTER,
    "tokenizer_config.json": _TOKENIZER,
    "preprocessor_config.json": _IMAGES,
    "processor_config.json": _IMAGES,
    "generation_config.json": _GENERATION,
    "image_rules": _IMAGE_RULES,
    "model.safetensors.index.json": _INDEX,
    "pytorch_model.bin.index.json": _INDEX,
}


def wrong_entry(name: str, content: Mapping[str, Any]) -> str | None:
    """What is wrong with the first entry that is not as the file's table says.

    Args:
        name: Of the file; or `image_rules`, of which a processor may be made directly.
        content: What it holds.

    Returns:
        Entry, value, and what it must be; None if there is nothing wrong.
    """
    if _is_too_deep(content):
        return f"is nested deeper than {DEEPEST} levels"
    table = _TABLES.get(name)
    return None if table is None else next(_wrong(table, content, ""), None)


def _wrong(table: Mapping[str, EntryRule], content: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in content.items():
        rule = table.get(name)
        if rule is not None and not rule.fits(value):
            yield f"{prefix}{name} is {shown(value)}, and must be {rule.says}"
        elif isinstance(value, dict) and (name in _NESTED or name in _TABLE_OF):
            yield from _wrong(_TABLE_OF.get(name, table), value, f"{prefix}{name}.")


def shown(value: Any) -> str:
    """A value for a message: never long."""
    if _is_whole(value) and abs(value) > 10**30:
        return f"a whole number of {int(math.log10(abs(value))) + 1} digits"
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _is_too_deep(content: Any) -> bool:
    level = [content]
    for _ in range(DEEPEST):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


__all__ = ["DEEPEST", "GENERATION_ENTRIES", "EntryRule", "shown", "wrong_entry"]
