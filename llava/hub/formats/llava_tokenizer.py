"""A tokenizer's files as haotian-liu/LLaVA reads them: `tokenizer.model`, for transformers 4.37's slow tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from llava.hub.formats.vocabulary import PAD_TOKEN, AddedRows
from llava.hub.json_file import optional_json, write_json
from llava.model.checkpoints.files import CheckpointError

_SENTENCEPIECE = "tokenizer.model"
_FILES = (_SENTENCEPIECE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_SLOW_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")
_NAMED = ("bos_token", "eos_token", "unk_token")
_FLAGS = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


def write_llava_tokenizer(
    tokenizer: PreTrainedTokenizerBase, folders: Sequence[Path], output: Path, dropped: AddedRows | None
) -> None:
    """Copies the files of a LLaVA checkpoint as they are, or writes those that transformers 5 does not keep.

    Args:
        tokenizer: As it was loaded from the first of `folders`.
        folders: Where tokenizer.model may lie: the tokenizer's own folder first, then the bases'.
        output: Where to.
        dropped: Rows of the vocabulary that LLaVA does not have; their tokens are left out.

    Raises:
        CheckpointError: There is no tokenizer.model.
    """
    beside = next((folder for folder in folders if (folder / _SENTENCEPIECE).is_file()), None)
    if beside is None:
        raise CheckpointError(
            f"{folders[0]}: there is no {_SENTENCEPIECE}, which haotian-liu/LLaVA's tokenizer is read from; put that "
            "of the language model there, or name a folder that has it with --model-base"
        )
    settings = optional_json(folders[0], "tokenizer_config.json")
    if dropped is None and beside == folders[0] and settings.get("tokenizer_class") in _SLOW_CLASSES:
        for name in _FILES:
            if (beside / name).is_file():
                shutil.copyfile(beside / name, output / name)
        return
    shutil.copyfile(beside / _SENTENCEPIECE, output / _SENTENCEPIECE)
    named = {name: str(getattr(tokenizer, name)) for name in _NAMED if getattr(tokenizer, name)}
    pad = tokenizer.pad_token
    if pad is not None:
        named["pad_token"] = named.get("unk_token", pad) if pad == PAD_TOKEN else str(pad)
    gone = () if dropped is None else dropped.tokens
    entries = {
        "add_bos_token": tokenizer("").input_ids[:1] == [tokenizer.bos_token_id],
        "add_eos_token": bool(settings.get("add_eos_token", False)),
        "added_tokens_decoder": _added_tokens(tokenizer, gone),
        "clean_up_tokenization_spaces": False,
        "legacy": _is_legacy(tokenizer, settings),
        "model_max_length": settings.get("model_max_length", 2048),
        "padding_side": "right",
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "LlamaTokenizer",
        "use_default_system_prompt": False,
        **named,
    }
    special = {name: {"content": token, **_FLAGS} for name, token in sorted(named.items())}
    for name, content in (("tokenizer_config.json", entries), ("special_tokens_map.json", special)):
        write_json(output / name, content)


def _added_tokens(tokenizer: PreTrainedTokenizerBase, gone: Sequence[str]) -> dict[str, Any]:
    return {
        str(place): {
            "content": token.content,
            **{name: getattr(token, name) for name in _FLAGS},
            "special": token.special,
        }
        for place, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.content not in gone
    }


def _is_legacy(tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]) -> bool:
    """Whether a text behind a special token gets a leading space, which `legacy` means."""
    if "legacy" in settings:
        return settings["legacy"] is not False
    steps = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"] or {}  # type: ignore[attr-defined]
    return any(step.get("prepend_scheme") == "always" for step in steps.get("pretokenizers", [steps]))
