"""How many questions a batch: a fixed number, or what the memory takes, found without losing a question."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch

_ON_CPU = 8
_MOST = 64  # beyond it a decoding step is no longer bound by reading the weights
_SHARE_OF_FREE = 0.8


class BatchSize:
    """The size of each batch. One that was too large is halved, for all that follow too."""

    def __init__(self, model: Any, fixed: int | None) -> None:
        """Begins with a guess.

        Args:
            model: The model, whose device and cache are asked.
            fixed: The number of questions; None finds it.

        Raises:
            ValueError: `fixed` is not positive.
        """
        if fixed is not None and fixed < 1:
            raise ValueError(f"batch_size must be at least 1, got {fixed}")
        self.model = model
        self.is_fixed = fixed is not None
        self.largest = fixed or (_MOST if model.device.type == "cuda" else _ON_CPU)

    def for_next(self, lengths: Sequence[int], max_new_tokens: int, to_be_freed: int = 0) -> int:
        """How many of the questions that wait go into the next batch.

        Args:
            lengths: For each number of prompts, from 1 on, the longest of them in tokens, visual ones included.
            max_new_tokens: How much longer each can become.
            to_be_freed: Bytes that are in use now and will be freed before the batch begins.
        """
        if self.is_fixed or self.model.device.type != "cuda":
            return self.largest
        free = _SHARE_OF_FREE * (_free_bytes(self.model.device) + to_be_freed)
        fits = 1
        while fits < min(self.largest, len(lengths)) and (fits + 1) * self._bytes(lengths[fits], max_new_tokens) < free:
            fits += 1
        return fits

    def halve(self, tried: int, error: BaseException) -> None:
        """Takes note that a batch was too large.

        Args:
            tried: Its size.
            error: What it ended in.

        Raises:
            BaseException: `error` again, if the size is fixed or cannot be halved.
        """
        if self.is_fixed or tried == 1:
            raise error
        self.largest = tried // 2

    def _bytes(self, length: int, max_new_tokens: int) -> int:
        """Memory that a question of this length takes: its keys and values, and a layer's activations in prefill."""
        config = self.model.config.get_text_config()
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        cache = 2 * config.num_hidden_layers * kv_heads * head_dim * (length + max_new_tokens)
        activations = (3 * config.intermediate_size + 6 * config.hidden_size) * length
        return int((cache + activations) * self.model.dtype.itemsize)


def release_memory() -> None:
    """Gives back what a failed attempt has left behind; call it once the error itself is gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, and what PyTorch holds of it without using it."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
