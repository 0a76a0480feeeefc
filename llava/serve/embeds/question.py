"""A question with the rows that stand for its images, in no engine's form yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from llava.constants import IMAGE_TOKEN_INDEX


@dataclass(frozen=True)
class EmbeddedQuestion:
    """A question, and of each of its images the rows that the language model reads.

    Attributes:
        words: The user's words, with one `<image>` where each image stands.
        prompt: The whole prompt by the model's own template, `<image>` for each image.
        ids: Of the prompt, -200 for each image.
        features: (K_i, D) of each image, in order, on the CPU; K_i visual tokens, D the language model's width.
        image_token_id: What stands in an engine's ids for a visual token.
        begins_with_bos: Whether the first id is the tokenizer's BOS, which is in no chat template of this package.
        stop: The separator at which answers end, where that is not the end token itself.
    """

    words: str
    prompt: str
    ids: tuple[int, ...]
    features: tuple[Tensor, ...]
    image_token_id: int
    begins_with_bos: bool = True
    stop: str | None = None

    @property
    def rows(self) -> tuple[int, ...]:
        """Visual tokens of each image."""
        return tuple(len(features) for features in self.features)

    def opened_ids(self, image_token_id: int | None = None) -> list[int]:
        """The ids with each image at its whole length.

        Args:
            image_token_id: What stands for a visual token; by default the model's own.
        """
        token = self.image_token_id if image_token_id is None else image_token_id
        rows = iter(self.rows)
        return list(chain.from_iterable([token] * next(rows) if i == IMAGE_TOKEN_INDEX else [i] for i in self.ids))

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Where each image begins and ends in `opened_ids`; the end is not part of it."""
        place, rows = 0, iter(self.rows)
        for each in self.ids:
            length = next(rows) if each == IMAGE_TOKEN_INDEX else 1
            if each == IMAGE_TOKEN_INDEX:
                yield place, place + length
            place += length

    def to(self, dtype: torch.dtype) -> EmbeddedQuestion:
        """The same with its rows in another type.

        Raises:
            ValueError: A number is too large for it.
        """
        rounded = tuple(features.to(dtype) for features in self.features)
        for number, (before, after) in enumerate(zip(self.features, rounded, strict=True), start=1):
            if not torch.isfinite(after).all():
                name = str(dtype).removeprefix("torch.")
                raise ValueError(
                    f"image {number}: its rows reach {before.abs().max().item():.4g}, which {name} cannot hold; take "
                    "bfloat16 or float32"
                )
        return replace(self, features=rounded)
