"""What does not go with a method inside the language model, each in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Cache, DynamicCache, StaticCache

# What an option of `generate` is without any effect, and why another value is refused.
_GENERATION: dict[str, tuple[Any, str]] = {
    "num_beams": (1, "beams would need the caches of all layers reordered; use num_beams=1"),
    "assistant_model": (None, "assisted decoding reads several tokens at once; leave assistant_model out"),
    "prompt_lookup_num_tokens": (
        None,
        "prompt lookup reads several tokens at once; leave prompt_lookup_num_tokens out",
    ),
    "assistant_early_exit": (None, "assisted decoding reads several tokens at once; leave assistant_early_exit out"),
    "prefill_chunk_size": (None, "a prompt is pruned as a whole; leave prefill_chunk_size out"),
    "cache_implementation": (None, "only a dynamic cache can hold another length in each layer"),
    "use_cache": (True, "a prompt is pruned once, and a cache keeps what is left; leave use_cache=False out"),
    "output_attentions": (False, "layers read different rows; leave output_attentions out"),
    "output_hidden_states": (False, "layers read different rows; leave output_hidden_states out"),
}


ONE_QUESTION = (
    "what it keeps of an image depends on the question, so a cache cannot go on with another one; leave "
    "past_key_values out and give the whole conversation"
)

NEEDS_DYNAMIC_CACHE = (
    "a static cache, as compile=True has it, is as long in every layer; leave compile and --compile out"
)


class PruningError(ValueError):
    """Something is asked for that does not go with a method inside the language model."""

    def __init__(self, method: str, reason: str) -> None:
        """Names both.

        Args:
            method: The name of the method, or its budget.
            reason: What does not go with it, and what to do.
        """
        super().__init__(f"{method} prunes inside the language model, and {reason}")


def check_generation(method: str, options: Mapping[str, Any], settings: Any) -> None:
    """Refuses ways to generate.

    Args:
        method: For the message.
        options: Keyword arguments of `generate`.
        settings: The model's generation settings, for what is not among them.

    Raises:
        PruningError: One does not go with a pruner.
    """
    settings = options.get("generation_config") or settings
    for name, (neutral, reason) in _GENERATION.items():
        value = options[name] if name in options else getattr(settings, name, None)
        if value is not None and value != neutral and value != "dynamic":
            raise PruningError(method, reason)
    check_cache(method, options.get("past_key_values"))


def check_cache(method: str, cache: Any) -> None:
    """Refuses caches of a fixed length, and those that a pruned prompt has filled.

    Raises:
        PruningError: It is one.
    """
    check_unfilled(method, cache)
    if cache is not None and (isinstance(cache, StaticCache) or not isinstance(cache, Cache) or cache.is_compileable):
        raise PruningError(method, NEEDS_DYNAMIC_CACHE)


def check_unfilled(method: str, cache: Any) -> None:
    """Refuses a cache that a pruned prompt has filled: the model gives back another one to go on with.

    Raises:
        PruningError: Its layers hold different rows.
    """
    if isinstance(cache, DynamicCache) and len({layer.get_seq_length() for layer in cache.layers}) > 1:
        raise PruningError(method, ONE_QUESTION)
