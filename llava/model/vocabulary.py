"""Tokens of one's own: the embedding grows, and an image token that stands just past the vocabulary moves with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN


class GrowingVocabulary:
    """Mixed into the models, before transformers' classes.

    LLaVA's vocabulary has no image token; its id is then the first one behind the rows of the embedding. A token that
    is added gets that very id, so whatever resizes the embedding moves the image token.
    """

    config: Any
    model: Any
    tokenizer_folder: Path | None

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        embedding: nn.Module = self.model.get_input_embeddings()
        return embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the token embedding where it is, not under the name that LLaVA has for it."""
        self.model.set_input_embeddings(value)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Transformers' `resize_token_embeddings`; an image token without a row stays the first id behind the rows.

        Args:
            new_num_tokens: Rows, usually `len(tokenizer)`; None changes nothing.
            pad_to_multiple_of: Round the rows up to a multiple of this.
            mean_resizing: New rows begin near the mean of the old ones.

        Returns:
            The token embedding.
        """
        was_past_the_end = self.config.image_token_id >= self.config.get_text_config().vocab_size
        embedding: nn.Embedding = super().resize_token_embeddings(  # type: ignore[misc]
            new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        if was_past_the_end:
            self.config.image_token_id = self.config.get_text_config().vocab_size
        if new_num_tokens is not None:
            self.tokenizer_folder = None  # the checkpoint's own tokenizer is not the model's any more
        return embedding

    def initialize_vision_tokenizer(self, model_args: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """LLaVA's: adds the tokens that a config asks for, and gives them rows.

        Args:
            model_args: Anything with LLaVA's entries `mm_use_im_patch_token` and `mm_use_im_start_end`, such as the
                model's config.
            tokenizer: Gets the tokens.
        """
        add_image_tokens(tokenizer, model_args)
        fit_vocabulary(self, tokenizer)


def add_image_tokens(tokenizer: PreTrainedTokenizerBase, asked: Any) -> list[str]:
    """Gives a tokenizer the extra tokens that configs of LLaVA-1.0's kind ask for.

    Args:
        tokenizer: Gets those that it lacks.
        asked: With `mm_use_im_patch_token` and `mm_use_im_start_end`.

    Returns:
        The tokens that were asked for.
    """
    wanted = [DEFAULT_IMAGE_PATCH_TOKEN] if getattr(asked, "mm_use_im_patch_token", False) else []
    if getattr(asked, "mm_use_im_start_end", False):
        wanted += [DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN]
    if wanted:
        tokenizer.add_tokens(wanted, special_tokens=True)
    return wanted


def check_ids(ids: Tensor | Sequence[int], rows: int) -> None:
    """Refuses ids that have no embedding, where they lie on the CPU: elsewhere it would cost a copy to look.

    Args:
        ids: Of any shape, or a list of them.
        rows: Of the token embedding.

    Raises:
        ValueError: One is outside 0..rows - 1.
    """
    if isinstance(ids, Tensor):
        if ids.device.type != "cpu" or not ids.numel():
            return
        held = ids.numpy()  # of the same memory; nothing is computed by torch
        least, largest = int(held.min()), int(held.max())
    elif ids:
        least, largest = min(ids), max(ids)
    else:
        return
    if least < 0 or largest >= rows:
        raise ValueError(
            f"the token id {least if least < 0 else largest} has no embedding: the model has {rows} rows. After tokens "
            "were added to a tokenizer, say model.resize_token_embeddings(len(tokenizer))"
        )


def fit_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives every token of the tokenizer a row."""
    if len(tokenizer) > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(len(tokenizer))


__all__ = ["GrowingVocabulary", "add_image_tokens", "check_ids", "fit_vocabulary"]
