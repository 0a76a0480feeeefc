"""Tokenizers that give the ids LLaVA was trained with.

LLaVA reads `tokenizer.model` with the slow (SentencePiece) Llama tokenizer of transformers 4. transformers 5 keeps only
the fast one, whose ids differ from it in two places: a text that starts with a space loses its leading piece, and after
a special token the setting `legacy=True` is not followed. `load_tokenizer` rebuilds the two steps in which they differ.

What comes out is a plain `PreTrainedTokenizerFast` whose rules all stand in its tokenizer.json, so a saved copy gives
the same ids in plain transformers, too.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTENCEPIECE_FILE = "tokenizer.model"
_LLAMA_CLASSES = frozenset({"LlamaTokenizer", "LlamaTokenizerFast"})
# Checkpoints in transformers' own format: their ids are those of transformers, whatever files lie beside.
_TRANSFORMERS_MODEL_TYPES = frozenset({"llava", "llava_next", "llava_onevision", "vipllava"})
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def load_tokenizer(path: str | os.PathLike[str], *, like_slow: bool | None = None) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer.

    Args:
        path: A folder or a Hub id.
        like_slow: Whether to give the slow Llama tokenizer's ids. None decides by the files: yes for a SentencePiece
            Llama tokenizer (there is a `tokenizer.model` and its class is LlamaTokenizer), unless config.json says that
            the checkpoint is in transformers' format (`model_type` llava, llava_next). Byte-level BPE tokenizers are
            never touched.

    Returns:
        A fast tokenizer. Where the slow rules apply, it has the attribute `legacy` that LLaVA programs read.

    Raises:
        OSError: There is no tokenizer at `path`.
        ValueError: `like_slow=True` for a tokenizer that is no SentencePiece Llama tokenizer.
    """
    from transformers import AutoTokenizer

    settings = _read_json(path, "tokenizer_config.json")
    is_llama = settings.get("tokenizer_class") in _LLAMA_CLASSES
    model_file = _find_file(path, _SENTENCEPIECE_FILE) if is_llama else None
    if like_slow is None:
        like_slow = model_file is not None and (
            _read_json(path, "config.json").get("model_type") not in _TRANSFORMERS_MODEL_TYPES
        )
    elif like_slow and model_file is None:
        raise ValueError(
            f"{path}: like_slow=True needs a {_SENTENCEPIECE_FILE} and tokenizer_class LlamaTokenizer "
            f"(found {settings.get('tokenizer_class')!r})."
        )
    if not like_slow or model_file is None:
        tokenizer = AutoTokenizer.from_pretrained(path)
        if "legacy" in settings and not hasattr(tokenizer, "legacy"):
            tokenizer.legacy = settings["legacy"]
        return tokenizer
    return _load_like_slow(path, model_file, settings)


def _load_like_slow(
    path: str | os.PathLike[str], model_file: str, settings: dict[str, Any]
) -> PreTrainedTokenizerBase:
    from tokenizers import normalizers, pre_tokenizers
    from transformers import LlamaTokenizer, PreTrainedTokenizerFast

    # A missing entry meant legacy to transformers 4; transformers 5 takes it for False.
    legacy = settings.get("legacy") is not False
    if legacy:
        prefix = "always" if _adds_dummy_prefix(model_file) else "never"
    else:
        prefix = "first" if settings.get("add_prefix_space") is not False else "never"
    source = LlamaTokenizer.from_pretrained(path, legacy=legacy)
    backend = source.backend_tokenizer
    # The text's own spaces are spelled as pieces first. The prefix can then be set as a real space without asking
    # whether the text already starts with one, which is the question that the stock pipeline gets wrong.
    backend.normalizer = normalizers.Replace(" ", _SPACE)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=" ", prepend_scheme=prefix, split=False),
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="never", split=False),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **source.init_kwargs)
    tokenizer.legacy = legacy
    return tokenizer


def _adds_dummy_prefix(model_file: str) -> bool:
    """Whether the SentencePiece model puts a space before a text (Llama's does, Yi's does not)."""
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=model_file).normalize("a").startswith(_SPACE)


def _find_file(path: str | os.PathLike[str], name: str) -> str | None:
    """Return the local path of a checkpoint's file, from a folder or the Hub, or None where there is none."""
    from transformers.utils import cached_file

    return cached_file(
        path,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def _read_json(path: str | os.PathLike[str], name: str) -> dict[str, Any]:
    file = _find_file(path, name)
    if file is None:
        return {}
    with open(file, encoding="utf-8") as handle:
        try:
            return json.load(handle)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}: not valid JSON ({error}).") from error
