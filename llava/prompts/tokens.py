"""A prompt as LLaVA's ids: -200 for each image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenizer_image_token(
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    image_token_index: int = IMAGE_TOKEN_INDEX,
    return_tensors: str | None = None,
) -> list[int] | torch.Tensor:
    """Tokenise a prompt, with one `image_token_index` for every `<image>` in it.

    The text on each side of an image is tokenised by itself, and of the BOS tokens only the first is kept.

    Args:
        prompt: The text.
        tokenizer: Any tokenizer, with or without BOS.
        image_token_index: The id that stands for an image.
        return_tensors: None for a list, `pt` for a tensor of shape (tokens,).

    Raises:
        ValueError: Another `return_tensors`.
    """
    if return_tensors not in (None, "pt"):
        raise ValueError(f"return_tensors={return_tensors!r} is not supported; use None or 'pt'.")
    first, *others = (tokenizer(chunk).input_ids for chunk in prompt.split(DEFAULT_IMAGE_TOKEN))
    num_bos = int(len(first) > 0 and first[0] == tokenizer.bos_token_id)
    input_ids = list(first)
    for chunk in others:
        input_ids += [image_token_index, *chunk[num_bos:]]
    return torch.tensor(input_ids, dtype=torch.long) if return_tensors == "pt" else input_ids
