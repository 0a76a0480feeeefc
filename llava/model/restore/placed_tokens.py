"""The tokens of an image, and what RESTORE must know of them besides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llava.model.restore.refusals import RestoreError


class PlacedTokens(Tensor):
    """The tokens (K, D) of an image that know which of its rows they stand for.

    A plain tensor in all that is computed with it: whatever an operation gives back has lost what is known here.

    Attributes:
        places: (K,), int64, ascending: the row of the whole image at which each token stands.
        sizes: (K,), how many rows each token holds.
        num_rows: N, rows of the whole image.
    """

    # So that operations give plain tensors.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    places: Tensor
    sizes: Tensor
    num_rows: int

    @classmethod
    def of(cls, tokens: Tensor, places: Tensor, sizes: Tensor, num_rows: int) -> PlacedTokens:
        """Notes beside tokens what the class says; nothing is copied."""
        placed: Any = tokens.as_subclass(cls)
        placed.places, placed.sizes, placed.num_rows = places, sizes, num_rows
        return placed  # type: ignore[no-any-return]


def placed_images(
    tokens: Tensor, places: Tensor, sizes: Tensor, num_rows: int, counts: Sequence[int] | None
) -> list[Tensor]:
    """The tiles of several images, each image with its tokens in sequence.

    Args:
        tokens: (T, K, D).
        places: (T, K), in a tile.
        sizes: (T, K).
        num_rows: N, rows of a whole tile.
        counts: Tiles of each image; None for one each.
    """
    counts = [1] * len(tokens) if counts is None else list(counts)
    images: list[Tensor] = []
    for own, where, size in zip(tokens.split(counts), places.split(counts), sizes.split(counts), strict=True):
        start = torch.arange(len(own), device=where.device).unsqueeze(1) * num_rows  # of each tile
        flat = own.flatten(0, 1), (where + start).flatten(), size.flatten()
        images.append(PlacedTokens.of(*flat, num_rows=len(own) * num_rows))
    return images


def placed(images: Sequence[Tensor]) -> tuple[PlacedTokens, ...]:
    """The same images.

    Raises:
        RestoreError: One has lost where its tokens stand.
    """
    known = tuple(image for image in images if isinstance(image, PlacedTokens))
    if len(known) < len(images):
        raise RestoreError(
            "these features do not say where their tokens stand; give the list of encode_images as it is, made under "
            "this compression"
        )
    return known
