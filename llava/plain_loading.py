"""transformers' loaders for names that a checkpoint chooses: the one place that calls them.

Code that comes with a checkpoint is never run, and nobody is asked whether it should be: asked nothing, transformers
puts that question on the terminal, where `yes |` answers it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.small_files import CheckpointError, check_content, optional_json, read_json, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase
    from transformers.configuration_utils import PretrainedConfig

# Entries of config.json by which transformers fetches and runs code, or patches its classes for the whole process.
_CODE = {
    *("auto_map", "custom_generate", "fusion_config", "kernel_config", "use_kernels", "attn_implementation"),
    *("_attn_implementation", "_attn_implementation_internal", "experts_implementation", "_experts_implementation"),
}

_LONGEST = 240


def without_code(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a config.json, those of its parts too, without what would make transformers run code."""
    return {
        name: without_code(value) if isinstance(value, dict) else value
        for name, value in entries.items()
        if name not in _CODE
    }


def config_of(folder: Path) -> PretrainedConfig:
    """The config of a folder, as transformers' own class of its `model_type`.

    Raises:
        CheckpointError: It has no config.json, of no kind that transformers knows, or a wrong entry.
    """
    from transformers import CONFIG_MAPPING

    raw = read_json(folder / "config.json")
    model_type = raw.get("model_type")
    if model_type not in CONFIG_MAPPING:
        code = "" if "auto_map" not in raw else "; its auto_map names code of the checkpoint, which is never run"
        raise CheckpointError(f"{folder}: config.json: model_type {model_type!r} is none of transformers'{code}")
    return config_from(CONFIG_MAPPING[model_type], raw, folder)


def config_from(config_class: Any, entries: Mapping[str, Any], folder: Path) -> Any:
    """Makes a config of entries.

    Args:
        config_class: transformers', or of that kind.
        entries: Of a config.json.
        folder: Where it lies, for messages.

    Raises:
        CheckpointError: The class refuses an entry.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that an entry of a published file has a newer name
            return config_class.from_dict(without_code(entries))
    except Exception as error:  # of any type: the classes check less than they rely on
        raise CheckpointError(f"{folder}: config.json: {reason(error)}") from error


def auto_tokenizer(path: Any) -> PreTrainedTokenizerBase:
    """Transformers' tokenizer of a folder or a repository.

    Raises:
        CheckpointError: It cannot be made of the files; the message names the place and why.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        _name_damaged(Path(path))
        raise CheckpointError(f"{path}: the tokenizer cannot be read: {reason(error)}") from error
    return tokenizer


def _name_damaged(folder: Path) -> None:
    """Raises CheckpointError for a file of a tokenizer that is damaged, which transformers does not name."""
    for name in ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json"):
        optional_json(folder, name)
    if (folder / "chat_template.jinja").exists():
        read_text(folder / "chat_template.jinja")
    if (folder / "tokenizer.model").exists():
        check_content(folder / "tokenizer.model")


def auto_processor(path: Any) -> Any:
    """Transformers' own processor of a folder."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(path, trust_remote_code=False)


def auto_image_text_model(path: Any, **options: Any) -> Any:
    """Transformers' own model of text and images; `options` as its `from_pretrained` takes them."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=False, **options)


def clip_model(folder: Path) -> Any:
    """A CLIP, text and vision tower, on the CPU.

    Raises:
        CheckpointError: It is none, or a weight is missing.
    """
    from transformers import CLIPModel

    config = config_of(folder)
    if config.model_type != "clip":
        raise CheckpointError(f"{folder}: config.json: model_type {config.model_type!r} is not 'clip'")
    try:
        model, info = CLIPModel.from_pretrained(folder, config=config, output_loading_info=True, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{folder}: the CLIP cannot be read: {reason(error)}") from error
    if info["missing_keys"]:
        raise CheckpointError(
            f"{folder}: the CLIP lacks {len(info['missing_keys'])} tensors: {min(info['missing_keys'])}, ..."
        )
    return model


def auto_model_of(config: Any) -> Any:
    """Transformers' model without weights of a config."""
    from transformers import AutoModel

    return AutoModel.from_config(config, trust_remote_code=False)


def auto_language_model_of(config: Any) -> Any:
    """Transformers' language model with a head, without weights, of a config."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def reason(error: BaseException) -> str:
    """An error of another library in one line, without its advice to run a checkpoint's code."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in text:
        return "it needs code of the checkpoint (auto_map), which is never run"
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return f"{type(error).__name__}: {text}" if isinstance(error, KeyError | TypeError | AttributeError) else text


__all__ = [
    "auto_image_text_model",
    "auto_language_model_of",
    "auto_model_of",
    "auto_processor",
    "auto_tokenizer",
    "clip_model",
    "config_from",
    "config_of",
    "reason",
    "without_code",
]
