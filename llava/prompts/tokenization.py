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
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.kinds.languages import language_named
from llava.plain_loading import auto_tokenizer, reason
from llava.small_files import CheckpointError, MissingFileError, check_content, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTENCEPIECE_FILE = "tokenizer.model"
_VOCABULARIES = ("tokenizer.json", _SENTENCEPIECE_FILE, "vocab.json", "vocab.txt", "spiece.model")
_LLAMA_CLASSES = frozenset({"LlamaTokenizer", "LlamaTokenizerFast"})
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def load_tokenizer(path: str | os.PathLike[str], *, like_slow: bool | None = None) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer.

    Args:
        path: A folder or a Hub id.
        like_slow: Whether to give the slow Llama tokenizer's ids. None decides by the files: yes for a SentencePiece
            Llama tokenizer (class LlamaTokenizer and a `tokenizer.model`), unless config.json is a composite one, as
            in llava-hf's folders: their ids are those of transformers. Byte-level BPE tokenizers are never touched.

    Returns:
        A fast tokenizer. Where its files say so, it has the attribute `legacy` that LLaVA programs read.

    Raises:
        MissingFileError: There is no tokenizer at `path`.
        CheckpointError: Its files are damaged.
        ValueError: `like_slow=True` for a tokenizer that is no SentencePiece Llama tokenizer.
    """
    settings, config = _read_json(path, "tokenizer_config.json"), _read_json(path, "config.json")
    if not any(_find_file(path, name) for name in _VOCABULARIES):
        raise MissingFileError(f"{path}: there is no tokenizer, neither {' nor '.join(_VOCABULARIES[:2])}")
    model_file = _find_file(path, _SENTENCEPIECE_FILE) if _is_llama(settings, config) else None
    if like_slow and model_file is None:
        raise ValueError(f"{path}: like_slow=True needs a Llama tokenizer with its {_SENTENCEPIECE_FILE}.")
    if like_slow is None:
        like_slow = "text_config" not in config
    if like_slow and model_file is not None:
        return _load_like_slow(path, model_file, settings)
    tokenizer = auto_tokenizer(path)
    if "legacy" in settings and not hasattr(tokenizer, "legacy"):
        tokenizer.legacy = settings["legacy"]
    return tokenizer


def _is_llama(settings: dict[str, Any], config: dict[str, Any]) -> bool:
    declared = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if declared:
        return declared in _LLAMA_CLASSES
    kind = language_named(config.get("model_type"))
    return kind is not None and kind.sentencepiece


def _load_like_slow(path: str | os.PathLike[str], model_file: str, settings: dict[str, Any]) -> PreTrainedTokenizerBase:
    from tokenizers import normalizers, pre_tokenizers
    from transformers import LlamaTokenizer, PreTrainedTokenizerFast

    # What a missing entry meant to transformers 4 was legacy and a BOS; to transformers 5 it is the opposite.
    legacy = settings.get("legacy") is not False
    ends = {"add_bos_token": settings.get("add_bos_token", True), "add_eos_token": settings.get("add_eos_token", False)}
    has_prefix = _adds_dummy_prefix(model_file)
    if legacy:
        prefix = "always" if has_prefix else "never"
    else:
        prefix = "first" if settings.get("add_prefix_space") is not False else "never"
    try:
        source = LlamaTokenizer.from_pretrained(path, legacy=legacy, **ends)
    except Exception as error:
        raise CheckpointError(f"{path}: the tokenizer cannot be read: {reason(error)}") from error
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
    options = {key: value for key, value in source.init_kwargs.items() if key != "added_tokens_decoder"}
    # transformers counts the named special tokens (BOS and so on) among the extra ones; here they are kept apart.
    named = set(source.special_tokens_map.values())
    options["extra_special_tokens"] = [token for token in source.extra_special_tokens if str(token) not in named]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, legacy=legacy, **options)
    tokenizer.legacy = legacy
    return tokenizer


def _adds_dummy_prefix(model_file: str) -> bool:
    """Whether the SentencePiece model puts a space before a text (Llama's does, Yi's does not)."""
    from sentencepiece import SentencePieceProcessor

    check_content(Path(model_file))
    try:
        pieces = SentencePieceProcessor(model_file=model_file)
    except Exception as error:
        raise CheckpointError(f"{model_file}: no SentencePiece model; was its download cut off?") from error
    return bool(pieces.normalize("a").startswith(_SPACE))


def copy_sentencepiece(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Copies the `tokenizer.model` that a tokenizer was read from, if there is one, beside what was saved of it.

    haotian-liu/LLaVA reads it, so an export to its format needs it; transformers writes none with a fast tokenizer.

    Args:
        tokenizer: Of `load_tokenizer`, from a folder.
        folder: Where it was saved.
    """
    file = Path(tokenizer.name_or_path) / _SENTENCEPIECE_FILE
    if file.is_file():
        shutil.copyfile(file, folder / file.name)


def text_begins_anew_after_images(file: Path) -> None:
    """Gives the text behind an image the leading piece that it has in LLaVA, where it is tokenised by itself.

    The image token is found after normalisation then, so that a rule of normalisation can see what precedes the text.

    Args:
        file: A tokenizer.json; changed only if it sets a leading space at the beginning of a text and nowhere else.
    """
    entries = json.loads(file.read_text(encoding="utf-8"))
    steps = entries.get("pre_tokenizer") or {}
    steps = [step for step in steps.get("pretokenizers", [steps]) if step.get("prepend_scheme") == "first"]
    if not steps:
        return
    image = DEFAULT_IMAGE_TOKEN
    # The stock rule sets no space before a text that has one; the slow tokenizer's, which LLaVA was trained with, does.
    needs_none = f"{image}|\\z" + ("| " if steps[0]["replacement"] == _SPACE else "")
    prefix = {"type": "Replace", "pattern": {"Regex": f"(?<={image})(?!{needs_none})"}, "content": _SPACE}
    given = entries["normalizer"] or {"type": "Sequence", "normalizers": []}
    normalizers = given["normalizers"] if given["type"] == "Sequence" else [given]
    normalizers = [prefix, *(step for step in normalizers if step != prefix)]  # once, however often it is saved
    entries["normalizer"] = {"type": "Sequence", "normalizers": normalizers}
    for token in entries["added_tokens"]:
        token["normalized"] = token["normalized"] or token["content"] == image
    file.write_text(json.dumps(entries, indent=2, ensure_ascii=False), encoding="utf-8")


def _find_file(path: str | os.PathLike[str], name: str) -> str | None:
    """Return the local path of a checkpoint's file, from a folder or the Hub, or None where there is none."""
    from transformers.utils import cached_file

    try:
        return cached_file(
            path,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError as error:
        raise FileNotFoundError(f"{path}: neither a folder nor a model on the Hub ({error})") from error


def _read_json(path: str | os.PathLike[str], name: str) -> dict[str, Any]:
    file = _find_file(path, name)
    if file is None:
        return {}
    return read_json(Path(file))
