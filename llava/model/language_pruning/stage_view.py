"""What a pruner can ask of a stage: the rows, and the attention of a few of them in the layers beside it.

Shapes: B prompts, P cached rows before them, L rows, H heads, Q last rows of each prompt, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llava.model.language_pruning.attention import (
    attention_logits,
    attention_weights,
    rotated,
    rotated_keys,
    rotated_queries,
)
from llava.model.language_pruning.prompt_rows import PromptRows
from llava.model.language_pruning.schedule import Stage

if TYPE_CHECKING:
    from transformers import Cache


@dataclass(frozen=True)
class StageView:
    """A batch between two layers.

    Attributes:
        number: Of the stage, from 0 on.
        layers_run: Layers that have run.
        rows: What has left the last of them.
        entering: What had entered it; positions and places are those of `rows`.
        first: What entered the first layer.
        text: The Q last rows of `first` may stand behind the images; the rest of a longer text does not.
        stages: For each prompt the stage of each of its images.
        counts: For each prompt the rows that each of its images has now.
        held: (B, P), bool, which of the cached rows before these are of a prompt; None where there are none.
        decoder: transformers' `LlamaModel` or `Qwen2Model`.
        cache: Of the layers that have run; those that come next may hold what stands before these rows.
        seed: Of the budget.
    """

    number: int
    layers_run: int
    rows: PromptRows
    entering: Tensor
    first: PromptRows
    text: int
    stages: tuple[tuple[Stage, ...], ...]
    counts: tuple[tuple[int, ...], ...]
    held: Tensor | None
    decoder: Any
    cache: Cache
    seed: int

    def attention_of_last(self, count: int, ahead: int = 0) -> Tensor:
        """Attention of some of the last rows in the layer that has just run.

        Args:
            count: Q.
            ahead: Rows that follow these.

        Returns:
            (B, H, Q, L), float32; of each query 0 at rows behind it. Cached rows take their share and are left out.
        """
        number = self.layers_run - 1
        layer, keys = self.decoder.layers[number], self.cache.layers[number].keys
        return self._weights(layer, self.entering, keys, self._last(count, ahead))

    def attention_of_last_in_next(self, count: int, ahead: int = 0) -> Tensor:
        """As `attention_of_last`, in the layer that comes next, as if nothing were dropped before it."""
        layer, hidden = self.decoder.layers[self.layers_run], self.rows.hidden
        keys = rotated_keys(layer, hidden, self.decoder.rotary_emb(hidden, position_ids=self.rows.positions))
        if self.held is not None:
            keys = torch.cat([self.cache.layers[self.layers_run].keys.to(keys), keys], dim=2)
        return self._weights(layer, hidden, keys, self._last(count, ahead))

    def attention_by_position(self, count: int, ahead: int = 0) -> Tensor:
        """What the products of queries and keys would be, scaled, if all were vectors of ones: rotation alone.

        Args:
            count: Q.
            ahead: Rows that follow these.

        Returns:
            (B, 1, Q, L), float32; the same in all heads.
        """
        like = self.rows.hidden[:0].float()
        cos, sin = self.decoder.rotary_emb(like, position_ids=self.rows.positions)
        ones = rotated(torch.ones_like(cos).unsqueeze(1), (cos, sin))
        scaling = self.decoder.layers[self.layers_run - 1].self_attn.scaling
        return attention_logits(ones[:, :, self._last(count, ahead)], ones, scaling)

    def per_row(self, numbers: Sequence[Sequence[int]]) -> Tensor:
        """A number of each image at each of its rows, (B, L), int64; at others without meaning.

        Args:
            numbers: For each prompt one for each of its images.
        """
        most = max(map(len, numbers))
        padded = [[*row, *[0] * (most - len(row))] for row in numbers]
        owner = self.rows.owner
        return torch.tensor(padded, device=owner.device).gather(1, owner.clamp(min=0))

    def _last(self, count: int, ahead: int) -> slice:
        return slice(self.rows.width - ahead - count, self.rows.width - ahead)

    def _visible(self, rows: slice) -> Tensor:
        """(B, Q, P + L), bool: what some rows see, of cached rows and of these."""
        is_row = self.rows.is_row
        column = torch.arange(self.rows.width, device=is_row.device)
        seen = is_row.unsqueeze(1) & (column <= column[rows].unsqueeze(1))
        if self.held is None:
            return seen
        return torch.cat([self.held.unsqueeze(1).expand(-1, seen.shape[1], -1), seen], dim=2)

    def _weights(self, layer: Any, hidden: Tensor, keys: Tensor, rows: slice) -> Tensor:
        asking, positions = hidden[:, rows], self.rows.positions[:, rows]
        queries = rotated_queries(layer, asking, self.decoder.rotary_emb(asking, position_ids=positions))
        visible = self._visible(rows).to(queries.device)
        return attention_weights(queries, keys, layer.self_attn.scaling, visible)[..., -self.rows.width :]
