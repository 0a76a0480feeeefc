"""Rows of one batch that are drawn each with its own temperature, top-p and seed, beside rows that are greedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor


@dataclass(frozen=True)
class Sampling:
    """How the tokens of a row are chosen.

    Attributes:
        temperature: 0 is greedy.
        top_p: Only the likeliest tokens that add up to this are drawn.
        seed: Of the draws; the same seed draws the same, whatever stands beside it in the batch.
    """

    temperature: float
    top_p: float
    seed: int


class DrawnRows(LogitsProcessor):
    """Draws the next token of the rows that are sampled, and leaves them no other; greedy search then takes it.

    Greedy rows are left as they are. A draw is the largest of p / e, where e is exponential noise: the same as drawing
    from p, with noise of the row's own generator.
    """

    def __init__(self, rows: Sequence[Sampling]) -> None:
        """Takes what each row asks for."""
        self._drawn = [(place, row) for place, row in enumerate(rows) if row.temperature > 0]
        self._generators: list[torch.Generator] = []

    def __call__(self, input_ids: Any, scores: Tensor) -> Tensor:
        """(B, V) scores, where a drawn row has one token that is not minus infinity."""
        if not self._generators:
            self._generators = [torch.Generator(scores.device).manual_seed(row.seed) for _, row in self._drawn]
        places = torch.tensor([place for place, _ in self._drawn], device=scores.device)
        temperatures = scores.new_tensor([row.temperature for _, row in self._drawn]).unsqueeze(1)
        top_p = scores.new_tensor([row.top_p for _, row in self._drawn]).unsqueeze(1)
        likely = (scores[places] / temperatures).softmax(dim=-1)
        ordered, order = likely.sort(dim=-1, descending=True)
        ordered = ordered.masked_fill(ordered.cumsum(dim=-1) - ordered >= top_p, 0)
        noise = torch.stack(
            [
                torch.empty_like(row).exponential_(generator=own)
                for row, own in zip(ordered, self._generators, strict=True)
            ]
        )
        chosen = order.gather(1, (ordered / noise).argmax(dim=-1, keepdim=True))
        alone = torch.full_like(likely, -torch.inf).scatter_(1, chosen, 0.0)
        return scores.index_copy(0, places, alone)
