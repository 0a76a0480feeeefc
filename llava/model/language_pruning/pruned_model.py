"""How a model calls its language model when a method inside it is on.

Shapes: B prompts, L rows, D channels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from llava.model.language_pruning.decoder_loop import read_on, read_pruned
from llava.model.language_pruning.image_rows import ImageRows
from llava.model.language_pruning.pruned_cache import PrunedCache
from llava.model.language_pruning.refusals import ONE_QUESTION, PruningError, check_cache
from llava.model.language_pruning.registry import BoundPruner

_PASSED_OVER = {"return_dict", "use_cache", "output_attentions", "output_hidden_states", "cache_position"}


def read_prompts(
    language_model: Any,
    bound: BoundPruner,
    inputs_embeds: Tensor,
    images: ImageRows,
    *,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    past_key_values: Any = None,
    use_cache: bool | None = None,
    **kwargs: Any,
) -> BaseModelOutputWithPast:
    """Prompts with images, of which less is left from layer to layer; arguments as for transformers' language models.

    Args:
        language_model: Of transformers, without its head.
        bound: The pruner.
        inputs_embeds: (B, L, D).
        images: Where the images stand in these rows.
        attention_mask: (B, cached + L), 0 where padded; None for no padding.
        position_ids: (B, L).
        past_key_values: A dynamic cache, empty or filled with text that stands before these rows.
        use_cache: Whether the cache is given back.
        **kwargs: Others of transformers' keywords, of which those that ask for anything are refused.

    Returns:
        Hidden states of the rows that the last layer reads, and a `PrunedCache`.

    Raises:
        PruningError: The model is being trained, the cache holds more than text, or something is asked for that does
            not go with a pruner.
    """
    name = bound.pruner.name
    if language_model.training:
        raise PruningError(name, "no gradient flows through what is dropped; train without it, and call model.eval()")
    _check_outputs(name, language_model, kwargs)
    unknown = [key for key, value in kwargs.items() if key not in _PASSED_OVER and value is not None]
    if unknown:
        raise PruningError(name, f"{', '.join(sorted(unknown))} cannot be passed on to its layers; leave it out")
    check_cache(name, past_key_values)
    cache = DynamicCache(config=language_model.config) if past_key_values is None else past_key_values
    if images.owner.shape[1] != inputs_embeds.shape[1]:
        raise PruningError(name, ONE_QUESTION)
    images = images.repeated(len(inputs_embeds))
    hidden, pruned = read_pruned(language_model, bound, inputs_embeds, images, attention_mask, position_ids, cache)
    return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=None if use_cache is False else pruned)


def read_answer(
    language_model: Any, inputs_embeds: Tensor, past_key_values: PrunedCache, **kwargs: Any
) -> BaseModelOutputWithPast:
    """Tokens of the answers to pruned prompts.

    Args:
        language_model: As for `read_prompts`.
        inputs_embeds: (B, 1, D).
        past_key_values: That `read_prompts` gave; filled further.
        **kwargs: transformers' keywords, of which masks and positions are passed over: the cache knows both.

    Raises:
        PruningError: There are several tokens a prompt, the next question of a conversation for one; or what layers
            give is asked for.
    """
    if inputs_embeds.shape[1] != 1:
        raise PruningError("the method of this cache", ONE_QUESTION)
    _check_outputs("the method of this cache", language_model, kwargs)
    hidden = read_on(language_model, inputs_embeds, past_key_values)
    return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)


def _check_outputs(name: str, language_model: Any, kwargs: dict[str, Any]) -> None:
    """Refuses what layers give, asked for by a keyword or, as transformers has it, by the config."""
    for key in ("output_attentions", "output_hidden_states"):
        if kwargs.get(key, getattr(language_model.config, key, False)):
            raise PruningError(name, f"layers read different rows; leave {key} out")
