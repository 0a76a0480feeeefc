"""What a processor is asked for beside ids and pixels: options of its call, and where images stand in the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.processing_utils import TextKwargs

REPLACEMENTS = "return_text_replacement_offsets"  # the option; the entry is called as below
_ENTRY = "text_replacement_offsets"


def text_options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer's options, from transformers' flat and nested keywords.

    Raises:
        ValueError: An option is about how images are prepared, which is LLaVA's way and no other.
    """
    flat = dict(kwargs)
    nested = {name: dict(flat.pop(name, None) or {}) for name in ("common_kwargs", "text_kwargs", "images_kwargs")}
    images = {name: value for name, value in nested["images_kwargs"].items() if name != "return_tensors"}
    if images:
        raise ValueError(f"images_kwargs {images}: images are prepared as the model was trained; there is no option")
    options = {**nested["common_kwargs"], **nested["text_kwargs"], **flat}
    unknown = sorted(set(options) - set(TextKwargs.__annotations__) - {"return_tensors"})
    if unknown:
        raise ValueError(
            f"options {', '.join(unknown)} are none of the tokenizer's, and images are prepared as LLaVA does"
        )
    return options


def replacements(processor: Any, texts: Sequence[str], counts: Sequence[int]) -> dict[str, list[list[dict[str, Any]]]]:
    """Where each image token stands in the texts and what takes its place, as transformers' own processors say it.

    Servers such as vLLM's transformers backend ask for it: they tokenise what takes a token's place by themselves.

    Args:
        processor: The processor; its tokenizer must have the image token.
        texts: The prompts.
        counts: Visual tokens of each image, in the order of the image tokens.

    Returns:
        `text_replacement_offsets`: for each text a list with an entry an image: `type`, `text`, `replacement`, and
        their places in characters, `span` before and `new_span` after.

    Raises:
        ValueError: The tokenizer would make several ids of an image token.
    """
    token = processor.image_token
    if processor.tokenizer.convert_tokens_to_ids(token) != processor.image_token_id:
        raise ValueError(
            f"{REPLACEMENTS}: {token!r} is no token of this tokenizer, so a server cannot tell where images are; "
            "`llava export --to hf` writes a checkpoint with one"
        )
    _, found = processor.get_text_with_replacements(list(texts), [token * count for count in counts])
    return {_ENTRY: found}
