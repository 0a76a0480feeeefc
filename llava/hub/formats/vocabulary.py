"""The image token's place in the vocabulary: rows that are added for plain transformers, and taken away again.

A LLaVA vocabulary (32,000 rows) has no image token; llava-hf's checkpoints add `<image>` and `<pad>` and fill up to a
multiple of 64 (32,064 rows). Their conversion draws each new row, of the embedding and of the head, from a normal
distribution around the mean of the embedding's rows with 1e-5 of their covariance. Here nothing is drawn: a new row is
the mean itself, the embedding's rows for the embedding and the head's for the head. Such a row is never looked at (the
image's features take its place), and greedy decoding never yields it: the mean of all logits exceeds none of them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.hub.formats.export_source import EMBEDDING, HEAD
from llava.model.checkpoints.files import CheckpointError
from llava.model.checkpoints.stored_tensor import StoredTensor

PAD_TOKEN = "<pad>"
VIDEO_TOKEN = "<video>"  # of families whose class in transformers has one
ROWS_BEFORE = "llava_vocab_size"  # entry of config.json: rows that the vocabulary had before the image token's
_MULTIPLE = 64
_ROWS_AT_A_TIME = 256


@dataclass(frozen=True)
class AddedRows:
    """Rows of the vocabulary that no training has made.

    Attributes:
        first: The first of them.
        end: The row after the last.
        tokens: The tokens that have one of them; the other rows only fill up.
    """

    first: int
    end: int
    tokens: tuple[str, ...]


def add_image_token(
    tensors: dict[str, StoredTensor], config: Any, tokenizer: PreTrainedTokenizerBase
) -> AddedRows | None:
    """Gives the image token, and a padding token, a row of their own.

    Args:
        tensors: By the module's names; embedding and head are replaced.
        config: transformers' config; its vocabulary and ids are set.
        tokenizer: Gets the tokens.

    Returns:
        What was added; None where there are rows enough already.

    Raises:
        CheckpointError: The tokenizer has another token where the config says the image token is.
    """
    rows = config.text_config.vocab_size
    if config.image_token_id < rows:
        _check_own_image_token(config, tokenizer)
        return None
    token = AddedToken(DEFAULT_IMAGE_TOKEN, special=True, normalized=False)
    tokenizer.add_tokens([token], special_tokens=True)
    if hasattr(config, "video_token_id"):
        tokenizer.add_tokens([AddedToken(VIDEO_TOKEN, special=True, normalized=False)], special_tokens=True)
        config.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)
    if PAD_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    vocabulary = tokenizer.get_vocab()
    end = -(-max(rows, 1 + max(vocabulary.values())) // _MULTIPLE) * _MULTIPLE
    for name in (EMBEDDING, HEAD):
        if name in tensors:
            tensors[name] = tensors[name].with_rows(mean_row(tensors[name].read()).expand(end - rows, -1))
    config.text_config.vocab_size = end
    setattr(config, ROWS_BEFORE, rows)
    config.image_token_id = vocabulary[DEFAULT_IMAGE_TOKEN]
    config.pad_token_id = tokenizer.pad_token_id
    named = sorted((place, name) for name, place in vocabulary.items() if place >= rows)
    return AddedRows(rows, end, tuple(name for _, name in named)) if end > rows else None


def drop_image_token(
    tensors: dict[str, StoredTensor], config: Any, tokenizer: PreTrainedTokenizerBase
) -> AddedRows | None:
    """Takes the rows away that `add_image_token`, or llava-hf's conversion, has added.

    Args:
        tensors: By the module's names; embedding and head are replaced.
        config: transformers' config; its vocabulary is set.
        tokenizer: Its tokens decide which rows go.

    Returns:
        What was dropped; None where the image token is an own word of the vocabulary, and stays.
    """
    end = config.text_config.vocab_size
    first = getattr(config, ROWS_BEFORE, None)
    behind = {name for name, place in tokenizer.get_vocab().items() if place >= (first or config.image_token_id)}
    if first is None:  # not exported here: as llava-hf's conversion leaves it, or with a vocabulary of its own
        as_converted = DEFAULT_IMAGE_TOKEN in behind and end % _MULTIPLE == 0
        first = config.image_token_id if as_converted else end
    if first >= end or not behind <= {DEFAULT_IMAGE_TOKEN, PAD_TOKEN}:
        return None
    for name in (EMBEDDING, HEAD):
        if name in tensors:
            tensors[name] = tensors[name].first_rows(first)
    config.text_config.vocab_size = first
    return AddedRows(first, end, tuple(sorted(behind)))


def mean_row(matrix: Tensor) -> Tensor:
    """The mean of a matrix's rows: the same bits on every machine, since every sum has a fixed order.

    Args:
        matrix: (V, D).

    Returns:
        (D,), of the matrix's dtype, rounded once.
    """
    total = torch.zeros(_ROWS_AT_A_TIME, matrix.shape[1], dtype=torch.float64)
    for block in matrix.split(_ROWS_AT_A_TIME):
        total[: len(block)] += block
    while len(total) > 1:
        total = total[: len(total) // 2] + total[len(total) // 2 :]
    return (total[0] / len(matrix)).to(matrix.dtype)


def _check_own_image_token(config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    found = tokenizer.convert_ids_to_tokens(config.image_token_id)
    if found != DEFAULT_IMAGE_TOKEN:
        raise CheckpointError(
            f"config.json: image_token_index {config.image_token_id} is the token {found!r} of the tokenizer, "
            f"not {DEFAULT_IMAGE_TOKEN}; tokenizer and model do not belong together"
        )
