"""The layers of a language model run one by one under RESTORE's bias; transformers' own modules, not patched.

Shapes: B prompts, L rows, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from llava.model.restore.bias import answer_masks, prompt_masks
from llava.model.restore.placed_rows import PlacedRows
from llava.model.restore.refusals import GIVEN_BACK, ONE_TOKEN, RestoreError, check_attention, check_cache

_PASSED_OVER = {"return_dict", "use_cache", "cache_position", "num_items_in_batch"}
_OF_LAYERS = ("output_attentions", "output_hidden_states")


class _SpentLayer(DynamicLayer):
    """Stands in a caller's cache for a layer that `RestoredCache` has taken over, so that nobody goes on without it."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def get_seq_length(self) -> int:
        return self._length

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise RestoreError(GIVEN_BACK)


class RestoredCache(Cache):
    """The cache that prompts have filled, and what is needed to go on from there.

    Beams of one prompt know the same of it, so `reorder_cache` needs to move keys and values only.
    """

    def __init__(self, filled: Cache, rows: PlacedRows, dtype: torch.dtype) -> None:
        """Takes over the layers of a cache.

        Args:
            filled: By the prompts; its layers are taken, and a later step with it is refused.
            rows: Of the prompts.
            dtype: Of the hidden states.
        """
        super().__init__(layers=filled.layers)
        filled.layers = [_SpentLayer(layer.get_seq_length()) for layer in filled.layers]
        self._masks = answer_masks(rows, dtype)
        self._next_position = rows.next_position
        self._length = rows.valid.shape[1]

    def next_step(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The positions (B, 1) of the next tokens, and what is added to their attention in the first layer and others.

        It is (B, 1, 1, cached + 1); the tokens of the answer have nothing added.
        """
        new = self.get_seq_length() - self._length
        first, others = (pad(mask, (0, new + 1)) for mask in self._masks)
        return self._next_position.unsqueeze(1) + new, (first, others)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Not to be had.

        Raises:
            RestoreError: Always; samples are repeated before the prompt is read.
        """
        raise RestoreError("its cache cannot be repeated; give num_return_sequences to generate")

    def batch_select_indices(self, indices: Tensor) -> None:
        """Not to be had.

        Raises:
            RestoreError: Always; what is known of each prompt is not in its layers alone.
        """
        raise RestoreError("prompts cannot be taken out of its cache; ask them in a batch of their own")


def read_restored(
    language_model: Any,
    inputs_embeds: Tensor,
    rows: PlacedRows,
    *,
    past_key_values: Any = None,
    use_cache: bool | None = None,
    **kwargs: Any,
) -> BaseModelOutputWithPast:
    """Prompts; arguments as for transformers' language models, of which masks and positions are passed over.

    Args:
        language_model: Of transformers, without its head.
        inputs_embeds: (B, L, D).
        rows: What stands in these rows; B may be a multiple of its prompts.
        past_key_values: An empty dynamic cache; the one that is given back goes on.
        use_cache: Whether a cache is filled and given back; by default as the config says.
        **kwargs: Others of transformers' keywords.

    Raises:
        RestoreError: The cache holds something, or something is asked for that does not go with the bias.
    """
    _check_outputs(language_model, kwargs)
    check_attention(language_model.config)
    check_cache(past_key_values)
    if rows.valid.shape[1] != inputs_embeds.shape[1]:
        raise RestoreError(ONE_TOKEN)
    rows = rows.repeated(len(inputs_embeds))
    cache = past_key_values
    if cache is None and (language_model.config.use_cache if use_cache is None else use_cache):
        cache = DynamicCache(config=language_model.config)
    masks = prompt_masks(rows, inputs_embeds.dtype)
    hidden = _run(language_model, inputs_embeds, rows.positions, masks, cache)
    filled = None if cache is None else RestoredCache(cache, rows, inputs_embeds.dtype)
    return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=filled)


def read_restored_answer(
    language_model: Any, inputs_embeds: Tensor, past_key_values: RestoredCache, **kwargs: Any
) -> BaseModelOutputWithPast:
    """The next token of the answer to each prompt; arguments as for `read_restored`.

    Raises:
        RestoreError: There are several tokens a prompt, or what layers give is asked for.
    """
    if inputs_embeds.shape[1] != 1:
        raise RestoreError(ONE_TOKEN)
    _check_outputs(language_model, kwargs)
    positions, masks = past_key_values.next_step()
    hidden = _run(language_model, inputs_embeds, positions, masks, past_key_values)
    return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)


def _run(decoder: Any, hidden: Tensor, positions: Tensor, masks: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
    """All layers, the first under the first mask."""
    rotation = decoder.rotary_emb(hidden, position_ids=positions.to(hidden.device))
    for number, layer in enumerate(decoder.layers):
        hidden = layer(
            hidden,
            attention_mask=masks[min(number, 1)].to(hidden.device),
            position_embeddings=rotation,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    output: Tensor = decoder.norm(hidden)
    return output


def _check_outputs(language_model: Any, kwargs: dict[str, Any]) -> None:
    """Refuses what layers give, asked for by a keyword or by the config, and keywords that would go unheard."""
    for key in _OF_LAYERS:
        if kwargs.get(key, getattr(language_model.config, key, False)):
            raise RestoreError(f"its layers are run one by one; leave {key} out")
    heard = {"attention_mask", "position_ids", *_PASSED_OVER, *_OF_LAYERS}
    unknown = [key for key, value in kwargs.items() if key not in heard and value is not None]
    if unknown:
        raise RestoreError(f"{', '.join(sorted(unknown))} cannot be passed on to its layers; leave it out")
