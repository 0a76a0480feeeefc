"""Whether a language model can have a method inside it."""

from __future__ import annotations

from typing import Any

from llava.kinds.languages import LANGUAGES
from llava.model.configuration import CompressionConfig
from llava.model.language_pruning.registry import Pruner


def check_pruner(pruner: Pruner, budget: CompressionConfig, text_config: Any, rows: int) -> None:
    """Refuses a method before any prompt is read.

    Args:
        pruner: The method.
        budget: Rows of an image that the layers are to read on average.
        text_config: Of the language model.
        rows: Of the image that has the most.

    Raises:
        ValueError: The language model is of a kind whose layers are not run one by one, or has sliding windows, or the
            budget does not fit; the message says what does.
    """
    if LANGUAGES.first(lambda kind: kind.is_prunable and kind.model_type == text_config.model_type) is None:
        known = sorted({each.model_type for each in LANGUAGES if each.is_prunable})
        raise ValueError(
            f"compression {budget}: {pruner.name} runs inside the language model, which must be one of "
            f"{', '.join(known)}; this is a {text_config.model_type}. Methods before the language model fit any"
        )
    types = getattr(text_config, "layer_types", None) or []
    if any(each != "full_attention" for each in types):
        raise ValueError(f"compression {budget}: {pruner.name} does not go with layers that have a sliding window")
    pruner.check(budget, rows, text_config.num_hidden_layers)
