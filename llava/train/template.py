"""The conversation template of a run: that of `--version`, else the one in which the result will be asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llava.conversation import conv_templates, conversation_template
from llava.data.model_rules import tokenizer_folder
from llava.data.templates import get_template
from llava.kinds.families import FAMILIES, family_of_llava
from llava.kinds.languages import LANGUAGES
from llava.model.checkpoints.config_adapter import is_llava_format, is_transformers_format
from llava.model.checkpoints.files import TRAINED_FILE, projector_file, read_json, resolve_checkpoint
from llava.model.checkpoints.lora import is_adapter
from llava.prompts.own_template import OWN, conv_mode_for, reads_tokenizer
from llava.prompts.tokenization import load_tokenizer
from llava.train.arguments import Arguments


def with_template(arguments: Arguments) -> Arguments:
    """The same arguments with `--version` filled in; a file of the model is read, no weights.

    Raises:
        ValueError: There is no such template, or none is known for the language model.
    """
    model = arguments.model
    asks_own = model.version is None or model.version == OWN
    version = own_template(model.model_name_or_path, model.version) if asks_own else str(model.version)
    try:
        get_template(version)
    except ValueError as error:
        if model.version:
            raise
        name = model.model_name_or_path
        raise ValueError(f"{name} is asked with {version}, which is not trained: {error}") from error
    found = replace(arguments, model=replace(model, version=version))
    found.training.record = found.record()
    return found


def own_template(model: str, named: str | None = None) -> str:
    """The template that loading chooses for a checkpoint, or for a LLaVA made of a language model.

    Args:
        model: A folder, or a repository.
        named: `tokenizer` for the tokenizer's own.

    What was trained on a base, a projector or adapters, has its own template where its config names one.

    Raises:
        ValueError: Its config names an unknown one, or none is known for its language model.
    """
    folder = resolve_checkpoint(model, weights=False)
    entries = read_json(folder / "config.json")
    base = entries.get("base_model_name_or_path")
    is_part = is_adapter(folder) or projector_file(folder) is not None or (folder / TRAINED_FILE).is_file()
    if is_part and "conv_mode" not in entries and isinstance(base, str) and Path(base) != Path(model):
        return own_template(base, named)
    config = _as_config(entries)
    tokenizer = load_tokenizer(tokenizer_folder(folder)) if reads_tokenizer(config, named) else None
    return conv_mode_for(config, tokenizer, named)


def first_name(version: str) -> str:
    """The first of the names that a template has: `v1` and `vicuna_v1` train alike."""
    conversation = conversation_template(version)
    return next(name for name, known in conv_templates.items() if known == conversation)


def _as_config(entries: dict[str, Any]) -> Any:
    if is_transformers_format(entries):  # whose files leave out what is transformers' default
        return FAMILIES.get(entries["model_type"]).config().from_dict(entries)
    language = family_of_llava(entries).language if is_llava_format(entries) else None
    named = {} if language is None else {"model_type": LANGUAGES.get(language).model_type}
    return SimpleNamespace(**(entries | named))
