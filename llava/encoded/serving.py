"""Stored images as the model takes them: tokens before its projector, or rows of its sequence.

Shapes: T tiles, K stored rows a tile, k <= K of a nested store, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llava.encoded.errors import StoreError
from llava.encoded.index import Entry, FileStamp
from llava.encoded.store import EncodedImage, EncodedStore
from llava.model.multimodal_compressor.types import gather_rows
from llava.model.vision_tokens import VisionTokens


def tokens_of(store: EncodedStore, entry: Entry, kept: int | None = None) -> VisionTokens:
    """An image of a store of the stage `tower`, as tower and compressor gave it.

    Args:
        store: Which holds it.
        entry: The image.
        kept: k, of a nested store; None takes all.
    """
    image, layout = store.read(entry), store.layout
    tokens = image.tokens.view(entry.tiles, entry.tokens, layout.channels)
    counts = [entry.tiles] if layout.several_tiles else None
    if image.positions is None:
        return VisionTokens(tokens, counts)
    positions = image.positions.view(entry.tiles, entry.tokens)
    if not layout.nested:
        return VisionTokens(tokens, counts, positions, layout.num_dominant)
    number = entry.tokens if kept is None else kept
    tokens, positions = _first_chosen(tokens, positions, number)
    return VisionTokens(tokens, counts, positions, number)


def features_of(store: EncodedStore, entry: Entry, kept: int | None = None) -> Tensor:
    """(rows, D) of an image of a store of the stage `projected`, ready to stand in for its placeholder.

    Args:
        store: Which holds it.
        entry: The image.
        kept: As for `tokens_of`.
    """
    image = store.read(entry)
    if not store.layout.nested:
        return image.tokens
    return _ordered(image, entry.tokens if kept is None else kept)


def _ordered(image: EncodedImage, kept: int) -> Tensor:
    assert image.positions is not None  # a nested store has them
    return _first_chosen(image.tokens.unsqueeze(0), image.positions.unsqueeze(0), kept)[0][0]


def _first_chosen(tokens: Tensor, positions: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The first k of tiles' tokens (T, K, C) and positions (T, K), in the order of the picture."""
    order = positions[:, :kept].long().argsort(dim=1)
    return gather_rows(tokens, order), torch.gather(positions, 1, order)


class NamedImages:
    """Images of a store of the stage `tower`, by the names that data have for them; other processes may have it."""

    def __init__(self, store: EncodedStore, entries: Mapping[str, Entry], kept: int | None) -> None:
        """Takes the images; `kept` as for `tokens_of`."""
        self._store = store
        self._entries = dict(entries)
        self._kept = kept

    @classmethod
    def of(cls, store: EncodedStore, stamps: Mapping[str, FileStamp], kept: int | None) -> NamedImages:
        """The images of files.

        Args:
            store: Which holds them all.
            stamps: The files, by name.
            kept: As for `tokens_of`.

        Raises:
            StoreError: It lacks one.
        """
        found: dict[str, Entry] = {}
        for name, stamp in stamps.items():
            entry = store.index.find(stamp)
            if entry is None:
                raise StoreError(f"{store.folder}: {name} is not in the store")
            found[name] = entry
        return cls(store, found, kept)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entry(self, name: str) -> Entry:
        """What is known of an image."""
        return self._entries[name]

    def read(self, name: str) -> VisionTokens:
        """Its tokens."""
        return tokens_of(self._store, self._entries[name], self._kept)


def kept_under(store: EncodedStore, model: Any) -> int | None:
    """Rows a tile that a model's budget takes of a nested store; None where all are taken."""
    bound = model.bound_compressor
    return bound.budget.num_tokens if store.layout.nested and bound is not None else None
