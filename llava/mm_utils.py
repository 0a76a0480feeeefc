"""LLaVA's public helpers around a multimodal prompt, under the names and signatures that programs import."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.image_processing import (
    divide_to_patches,
    expand2square,
    get_anyres_image_grid_shape,
    load_image,
    process_anyres_image,
    process_images,
    resize_and_pad_image,
    select_best_resolution,
)

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "KeywordsStoppingCriteria",
    "divide_to_patches",
    "expand2square",
    "get_anyres_image_grid_shape",
    "get_model_name_from_path",
    "load_image_from_base64",
    "process_anyres_image",
    "process_images",
    "resize_and_pad_image",
    "select_best_resolution",
    "tokenizer_image_token",
]


def load_image_from_base64(image: str | bytes) -> Image.Image:
    """Decode a base64 text into an RGB image.

    Raises:
        ImageDecodeError: The decoded bytes are no image.
    """
    return load_image(base64.b64decode(image))


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


def get_model_name_from_path(model_path: str) -> str:
    """Return the last part of a path, with its parent's for a trainer's `checkpoint-*` folder.

    It names answer files and models in reports; nothing is decided by it.
    """
    parts = model_path.strip("/").split("/")
    return "_".join(parts[-2:]) if parts[-1].startswith("checkpoint-") else parts[-1]


class KeywordsStoppingCriteria(StoppingCriteria):
    """Ends a sequence as soon as the generated part holds one of the keywords.

    Args:
        keywords: Texts to stop at, special tokens such as `</s>` among them.
        tokenizer: The tokenizer that made `input_ids`.
        input_ids: The prompt, (B, tokens). Where `generate` passes prompt and answer together, the prompt is not
            searched; where it starts from embeddings, it passes the answer alone.
    """

    def __init__(self, keywords: Sequence[str], tokenizer: PreTrainedTokenizerBase, input_ids: torch.Tensor) -> None:
        self.keywords = list(keywords)
        self.tokenizer = tokenizer
        self.prompt_ids = input_ids
        self.keyword_ids = [self._ids_without_bos(keyword) for keyword in self.keywords]
        # A token is at least one byte of text, so no keyword spans more tokens than it has bytes.
        self.window = max((len(keyword.encode()) for keyword in self.keywords), default=0)

    def _ids_without_bos(self, keyword: str) -> list[int]:
        ids = list(self.tokenizer(keyword).input_ids)
        return ids[1:] if len(ids) > 1 and ids[0] == self.tokenizer.bos_token_id else ids

    def __call__(self, output_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        """Say for each row of `output_ids` (B, tokens) whether it is done: bool, (B,)."""
        start = self.prompt_ids.shape[1]
        prompt = self.prompt_ids.to(output_ids.device)
        if output_ids.shape[1] >= start and torch.equal(output_ids[:, :start], prompt):
            generated = output_ids[:, start:]
        else:
            generated = output_ids
        done = [self._ends_with_keyword(row) for row in generated.tolist()]
        return torch.tensor(done, dtype=torch.bool, device=output_ids.device)

    def _ends_with_keyword(self, ids: list[int]) -> bool:
        if any(keyword and ids[-len(keyword) :] == keyword for keyword in self.keyword_ids):
            return True
        tail = ids[-self.window :] if self.window else []
        text = self.tokenizer.decode(tail, skip_special_tokens=True)
        return any(keyword in text for keyword in self.keywords)
