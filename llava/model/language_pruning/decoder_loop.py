"""The layers of a Llama or Qwen2 run one by one, with pruning between them; transformers' own modules, not patched.

Shapes: B prompts, P cached rows before them, L rows, W rows that are left behind the last stage, D channels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.masking_utils import create_causal_mask

from llava.model.language_pruning.image_rows import ImageRows
from llava.model.language_pruning.prompt_rows import (
    PromptRows,
    gather_rows,
    padding_first_index,
    padding_last_index,
    places_within_images,
)
from llava.model.language_pruning.pruned_cache import PrunedCache, Segment
from llava.model.language_pruning.registry import BoundPruner
from llava.model.language_pruning.stage_view import StageView


def read_pruned(
    decoder: Any,
    bound: BoundPruner,
    inputs_embeds: Tensor,
    images: ImageRows,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cache: Cache,
) -> tuple[Tensor, PrunedCache]:
    """Reads prompts, and drops rows of their images on the way.

    Args:
        decoder: transformers' `LlamaModel` or `Qwen2Model`.
        bound: The pruner.
        inputs_embeds: (B, L, D).
        images: Where the images stand in these rows.
        attention_mask: (B, P + L), 0 where padded; None for no padding.
        position_ids: (B, L); by default counted from each prompt's first token.
        cache: Empty, or filled with P rows of text before these; filled further.

    Returns:
        Hidden states (B, W, D), padded on the side on which the prompts were, and the cache to go on with.
    """
    return _Reading(decoder, bound, images, cache).run(inputs_embeds, attention_mask, position_ids)


def read_on(decoder: Any, inputs_embeds: Tensor, cache: PrunedCache) -> Tensor:
    """Reads tokens that follow pruned prompts.

    Args:
        decoder: As for `read_pruned`.
        inputs_embeds: (B, L, D).
        cache: Of `read_pruned`; filled further.

    Returns:
        Hidden states (B, L, D).
    """
    hidden, count = inputs_embeds, inputs_embeds.shape[1]
    for segment in cache.segments:
        cached = cache.get_seq_length(segment.first)
        positions = segment.new_positions(cached, count)
        run = _Layers(decoder, cache, segment.first, hidden, positions, segment.visible(cached + count))
        hidden = run.upto(segment.end, hidden)
    output: Tensor = decoder.norm(hidden)
    return output


class _Layers:
    """Layers that read the same rows, under one mask and one rotation."""

    def __init__(
        self, decoder: Any, cache: Cache, first: int, hidden: Tensor, positions: Tensor, visible: Tensor | None
    ) -> None:
        """Prepares them.

        Args:
            decoder: Of the layers.
            cache: Filled further.
            first: Number of the first layer.
            hidden: (B, L, D), as they will enter it.
            positions: (B, L).
            visible: (B, P + L), bool, which rows count, cached ones included; None where all do.
        """
        self._decoder, self._cache, self._next = decoder, cache, first
        self._mask = create_causal_mask(
            config=decoder.config,
            inputs_embeds=hidden,
            attention_mask=visible,
            past_key_values=cache,
            position_ids=None,  # it would look for samples that are packed, which gaps between positions are not
            layer_idx=first,
        )
        self._rotation = decoder.rotary_emb(hidden, position_ids=positions.to(hidden.device))

    def upto(self, end: int, hidden: Tensor) -> Tensor:
        """Runs those that have not run, up to the one before `end`, over hidden states (B, L, D)."""
        for layer in self._decoder.layers[self._next : end]:
            hidden = layer(
                hidden,
                attention_mask=self._mask,
                position_embeddings=self._rotation,
                past_key_values=self._cache,
                use_cache=True,
            )
        self._next = end
        return hidden


class _Reading:
    """One pass over prompts."""

    def __init__(self, decoder: Any, bound: BoundPruner, images: ImageRows, cache: Cache) -> None:
        self._decoder, self._bound, self._images, self._cache = decoder, bound, images, cache
        self._held: Tensor | None = None
        schedules = [[bound.schedule(count) for count in counts] for counts in images.counts]
        every = {stage.layers_run for each in schedules for schedule in each for stage in schedule.stages}
        self._places = sorted(every)
        self._stages = [[schedule.stages_at(self._places) for schedule in each] for each in schedules]
        self._lengths = list(images.lengths)
        self._counts = images.counts

    def run(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
    ) -> tuple[Tensor, PrunedCache]:
        held = self._cache.get_seq_length()
        if held:
            all_held = torch.ones(len(inputs_embeds), held, dtype=torch.bool, device=inputs_embeds.device)
            self._held = all_held if attention_mask is None else attention_mask[:, :held] != 0
        first = rows = self._first_rows(inputs_embeds, attention_mask, position_ids)
        next_position = rows.positions[:, -1] + 1
        ends = [*self._places, self._bound.num_layers]
        segments: list[Segment] = []
        start = 0
        for number, end in enumerate(ends):
            visible = self._visible(rows)
            layers = _Layers(self._decoder, self._cache, start, rows.hidden, rows.positions, visible)
            entering = layers.upto(end - 1, rows.hidden)
            rows = rows.with_hidden(layers.upto(end, entering))
            segments.append(Segment(start, end, held + rows.width, visible, next_position))
            if end < self._bound.num_layers:
                rows = self._prune(number, end, rows, entering, first)
                next_position = rows.positions[:, -1] + 1 if self._bound.renumbers else next_position
            start = end
        hidden = self._decoder.norm(rows.hidden)
        if self._images.right_padded and rows.valid is not None:
            hidden = gather_rows(hidden, padding_last_index(rows.valid))
        return hidden, PrunedCache(self._cache, segments)

    def _first_rows(self, hidden: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> PromptRows:
        """The rows as they enter the first layer, their padding before them."""
        batch, width, _ = hidden.shape
        owner = self._images.owner.to(hidden.device)
        valid = None
        if attention_mask is not None and self._images.has_padding:
            valid = (attention_mask[:, -width:] != 0).to(hidden.device)
        if position_ids is None:
            position_ids = self._counted(valid, owner)
        positions = position_ids.to(hidden.device).expand(batch, width)
        rows = PromptRows(hidden, valid, owner, positions)
        if valid is None or not self._images.right_padded:
            return rows
        index = padding_first_index(valid)
        return rows.gather(index, valid.gather(1, index))

    def _counted(self, valid: Tensor | None, owner: Tensor) -> Tensor:
        """Positions (B, L) from each prompt's first token on, cached ones included."""
        is_row = torch.ones_like(owner, dtype=torch.bool) if valid is None else valid
        before = 0 if self._held is None else self._held.sum(dim=1, keepdim=True).to(owner.device)
        return (is_row.cumsum(dim=1) - 1 + before).clamp(min=0)

    def _visible(self, rows: PromptRows) -> Tensor | None:
        """(B, P + L), bool; None where no row is padding."""
        if self._held is None:
            return rows.valid
        return torch.cat([self._held.to(rows.owner.device), rows.is_row], dim=1)

    def _prune(self, number: int, layers_run: int, rows: PromptRows, entering: Tensor, first: PromptRows) -> PromptRows:
        """What is left of the rows behind a stage."""
        stages = tuple(tuple(own[number] for own in each) for each in self._stages)
        view = StageView(
            number=number,
            layers_run=layers_run,
            rows=rows,
            entering=entering,
            first=first,
            text=self._images.after,
            stages=stages,
            counts=self._counts,
            held=self._held,
            decoder=self._decoder,
            cache=self._cache,
            seed=self._bound.seed,
        )
        pruner, options = self._bound.pruner, self._bound.options
        places = places_within_images(pruner.score(view, options), rows.owner)
        kept = view.per_row([[stage.kept for stage in each] for each in stages])
        dropped = (rows.owner >= 0) & (places >= kept)
        merges = pruner.merge is not None and any(stage.merged for each in stages for stage in each)
        merged = pruner.merge(view, places, options) if merges and pruner.merge is not None else None
        counts = tuple(tuple(stage.rows for stage in each) for each in stages)
        pairs = zip(self._lengths, self._counts, counts, strict=True)
        self._lengths = [length - sum(before) + sum(after) for length, before, after in pairs]
        self._counts = counts
        width = max(self._lengths)
        rows = rows.without(dropped, width, min(self._lengths) < width, merged)
        if not self._bound.renumbers:
            return rows
        return replace(rows, positions=self._counted(rows.valid, rows.owner))
