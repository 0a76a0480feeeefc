"""Keys and values of a prompt whose layers have read different rows of it.

Shapes: B prompts, P rows that a layer has cached of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache


@dataclass(frozen=True)
class Segment:
    """Layers that have read the same rows of the prompt.

    Attributes:
        first: Number of the first layer.
        end: Number of the layer behind the last one.
        length: P.
        valid: (B, P), bool, whether a row is one of a prompt; None where all are.
        next_position: (B,), of the first new token.
    """

    first: int
    end: int
    length: int
    valid: Tensor | None
    next_position: Tensor

    def new_positions(self, cached: int, count: int) -> Tensor:
        """Positions (B, count) of tokens that follow what is cached, `cached` rows with those of the prompt."""
        ahead = torch.arange(count, device=self.next_position.device) + (cached - self.length)
        return self.next_position.unsqueeze(1) + ahead

    def visible(self, width: int) -> Tensor | None:
        """(B, width), bool, of the first rows that are cached or about to be; None where all are."""
        if self.valid is None:
            return None
        new = self.valid.new_ones(len(self.valid), width - self.length)
        return torch.cat([self.valid, new], dim=1)


class PrunedCache(Cache):
    """The layers of a cache that a pruned prompt has filled, and what is needed to go on from there.

    The first layer has read every row, so `get_seq_length` says how long prompt and answer are, as transformers'
    `generate` expects.

    Attributes:
        segments: All layers, in order.
    """

    def __init__(self, filled: Cache, segments: Sequence[Segment]) -> None:
        """Takes over the layers of a cache.

        Args:
            filled: By the prompt; its layers are shared, not copied.
            segments: Which layers hold which rows.
        """
        super().__init__(layers=filled.layers)
        self.segments = tuple(segments)

    @property
    def lengths(self) -> list[int]:
        """Rows that each layer holds."""
        return [self.get_seq_length(number) for number in range(len(self.layers))]

    @property
    def held_bytes(self) -> int:
        """Memory of all keys and values."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)  # type: ignore[union-attr]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Not to be had.

        Raises:
            ValueError: Always; samples are repeated before the prompt is read.
        """
        raise ValueError("the cache of a pruned prompt cannot be repeated; give num_return_sequences to generate")

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Not to be had.

        Raises:
            ValueError: Always; what is known of each prompt is not in its layers alone.
        """
        raise ValueError("prompts cannot be taken out of the cache of pruned ones; ask them in a batch of their own")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Not to be had.

        Raises:
            ValueError: Always; beams are refused.
        """
        raise ValueError("the cache of a pruned prompt cannot be reordered; use num_beams=1")
