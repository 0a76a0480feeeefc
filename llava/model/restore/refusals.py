"""What does not go with `positions=restore`, each in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Cache, StaticCache

from llava.constants import SDPA_BY_SAMPLE
from llava.kinds.languages import LANGUAGES
from llava.model.configuration import CompressionConfig

_ADDS_A_BIAS = ("eager", "sdpa", SDPA_BY_SAMPLE)
_SEVERAL = "several tokens are read at once"
# What an option of `generate` is without any effect, and why another value is refused.
_GENERATION: dict[str, tuple[Any, str]] = {
    "assistant_model": (None, f"in assisted decoding {_SEVERAL}; leave assistant_model out"),
    "prompt_lookup_num_tokens": (None, f"in prompt lookup {_SEVERAL}; leave prompt_lookup_num_tokens out"),
    "assistant_early_exit": (None, f"in assisted decoding {_SEVERAL}; leave assistant_early_exit out"),
    "prefill_chunk_size": (None, "a prompt is read as a whole; leave prefill_chunk_size out"),
    "cache_implementation": (None, "what a cache knows of tokens goes with a dynamic one; leave it out"),
    "use_cache": (True, "new tokens see a prompt otherwise than it sees itself; leave use_cache=False out"),
    "output_attentions": (False, "its layers are run one by one; leave output_attentions out"),
    "output_hidden_states": (False, "its layers are run one by one; leave output_hidden_states out"),
}

GIVEN_BACK = "what it knows of a prompt is in the past_key_values of the output only; go on with those"
NEEDS_DYNAMIC_CACHE = "a static cache, as compile=True has it, knows nothing of tokens; leave compile and --compile out"
NOT_SERVABLE = (
    "positions=restore adds a bias to attention inside the language model, which no serving engine knows; attention "
    "must be sdpa or eager."
)
ONE_TOKEN = (
    "new tokens see a prompt otherwise than it sees itself, so a cache cannot go on with another question; leave "
    "past_key_values out and give the whole conversation"
)


class RestoreError(ValueError):
    """Something is asked for that does not go with `positions=restore`."""

    def __init__(self, reason: str) -> None:
        """Names both.

        Args:
            reason: What does not go with it, and what to do.
        """
        super().__init__(f"positions=restore adds a bias to attention inside the language model, and {reason}")


def check_restore(budget: CompressionConfig, text_config: Any, *, is_tiled: bool) -> None:
    """Refuses a budget before any image is encoded.

    Args:
        budget: With `positions=restore`.
        text_config: Of the language model; None where it is not known.
        is_tiled: Whether images are cut into tiles.

    Raises:
        ValueError: The model, its attention, or a further stage does not go with it.
    """
    reason = None
    if budget.then is not None:
        reason = f"{budget.then.method} drops rows between its layers; leave one of the two out"
    elif is_tiled:
        reason = "it says where tokens of one tile stand, and this model's images have several; use LLaVA-1.5"
    elif text_config is not None:
        reason = _unfit(text_config)
    if reason is not None:
        raise ValueError(f"compression {budget}: {RestoreError(reason)}")


def _unfit(text_config: Any) -> str | None:
    """Why a language model cannot have it."""
    if LANGUAGES.first(lambda kind: kind.is_prunable and kind.model_type == text_config.model_type) is None:
        known = sorted({each.model_type for each in LANGUAGES if each.is_prunable})
        return f"that must be one of {', '.join(known)}; this is a {text_config.model_type}"
    if any(each != "full_attention" for each in getattr(text_config, "layer_types", None) or []):
        return "some of its layers have a sliding window"
    return _unfit_attention(text_config)


def _unfit_attention(text_config: Any) -> str | None:
    attention = getattr(text_config, "_attn_implementation", None)
    if attention is None or attention in _ADDS_A_BIAS:
        return None
    return f"{attention} takes none; load with attn_implementation='sdpa', --attn-implementation sdpa"


def check_attention(text_config: Any) -> None:
    """Refuses attention that takes no bias; it can be changed on a loaded model.

    Raises:
        RestoreError: It is such a one.
    """
    reason = _unfit_attention(text_config)
    if reason is not None:
        raise RestoreError(reason)


def check_generation(options: Mapping[str, Any], settings: Any) -> None:
    """Refuses ways to generate.

    Args:
        options: Keyword arguments of `generate`.
        settings: The model's generation settings, for what is not among them.

    Raises:
        RestoreError: One does not go with it.
    """
    settings = options.get("generation_config") or settings
    for name, (neutral, reason) in _GENERATION.items():
        value = options[name] if name in options else getattr(settings, name, None)
        if value is not None and value != neutral and value != "dynamic":
            raise RestoreError(reason)
    check_cache(options.get("past_key_values"))


def check_cache(cache: Any) -> None:
    """Refuses caches of a fixed length, and those that hold something.

    Raises:
        RestoreError: It is one.
    """
    if cache is None:
        return
    if isinstance(cache, StaticCache) or not isinstance(cache, Cache) or cache.is_compileable:
        raise RestoreError(NEEDS_DYNAMIC_CACHE)
    if cache.get_seq_length():
        raise RestoreError(ONE_TOKEN)
