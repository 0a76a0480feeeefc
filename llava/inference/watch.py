"""Whoever wants to know of the answers of a call while they are made, and to end each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llava.inference.first_logits import FirstLogits


@dataclass(frozen=True)
class BatchRow:
    """A question that is about to be answered, as a row of its batch.

    Attributes:
        index: Which question of the call it is.
        prompt_tokens: As in `Answer`.
        visual_tokens: As in `Answer`.
    """

    index: int
    prompt_tokens: int
    visual_tokens: float


class Watch(Protocol):
    """Told of every batch of a call."""

    def begin(self, rows: Sequence[BatchRow], first: FirstLogits) -> dict[str, Any]:
        """Called before a batch is generated; again, with fewer rows, where it was too large for the memory.

        Args:
            rows: In the order of the batch. A compiled batch has further rows behind them, which nobody asked for.
            first: Knows once there is a first token whether the logits of each row are finite.

        Returns:
            Options for transformers' `generate` beside the call's own: stopping criteria, logits processors.
        """
