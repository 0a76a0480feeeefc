"""Images that were encoded before: which store fits the model as it is, and what it gives in place of encoding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL.Image import Image

from llava.encoded.errors import StoreMismatchError
from llava.encoded.index import Entry
from llava.encoded.made_with import ModelFacts
from llava.encoded.serving import features_of, kept_under, tokens_of
from llava.encoded.store import EncodedStore, open_store
from llava.images.rules import one_tile_beside_others
from llava.images.source import FrameSource, ImageSource, is_url
from llava.inference.seen_images import SeenImage
from llava.inference.visuals import are_several
from llava.model.vision_tokens import VisionTokens

StoreLike: TypeAlias = EncodedStore | str | Path


def opened_stores(given: StoreLike | Sequence[StoreLike] | None) -> list[EncodedStore]:
    """The stores that a caller names, by folder or opened already.

    Raises:
        StoreError: A folder is no store, or damaged.
    """
    several = [given] if isinstance(given, EncodedStore | str | Path) else list(given or ())
    return [each if isinstance(each, EncodedStore) else open_store(each) for each in several]


@dataclass
class FittingStore:
    """Chooses among stores the one that belongs to a model under its present budget.

    Attributes:
        stores: Each of one model and, unless it is nested, one budget.
        facts: Of the model.
    """

    stores: Sequence[EncodedStore]
    facts: ModelFacts
    _found: dict[str, EncodedStore] = field(default_factory=dict)

    def find(self) -> EncodedStore | None:
        """The store that fits; None where there are no stores at all.

        Raises:
            StoreMismatchError: There are, and none fits; says what differs.
        """
        if not self.stores:
            return None
        budget = str(self.facts.model.compression)
        if budget not in self._found:
            self._found[budget] = self._fitting()
        return self._found[budget]

    def _fitting(self) -> EncodedStore:
        parts = [self.facts.parts(store.manifest.layout.stage) for store in self.stores]
        for store, wanted in zip(self.stores, parts, strict=True):
            if not store.manifest.differences(wanted):
                return store
        if len(self.stores) == 1:
            self.stores[0].manifest.check(parts[0], self.stores[0].folder)
        each = zip(self.stores, parts, strict=True)
        told = [
            f"{store.folder}: {', '.join(name for name, _, _ in store.manifest.differences(wanted))}"
            for store, wanted in each
        ]
        raise StoreMismatchError(
            f"no store holds images of this model under compression {self.facts.model.compression or 'none'}; what "
            f"differs: {'; '.join(told)}. `llava store build` makes one"
        )


@dataclass
class StoredImages:
    """The images of one call that a store has.

    Attributes:
        store: It fits the model.
        model: A LLaVA model.
        found: What is known of images of this call, by their keys; None for one that is not stored.
    """

    store: EncodedStore
    model: Any
    found: dict[str, Entry | None] = field(default_factory=dict)

    def look_for(self, keys: Sequence[str], images: Sequence[ImageSource]) -> None:
        """Looks for the images of one prompt; none is opened, but the bytes of a file that the store does not know."""
        beside_others = are_several(images) and one_tile_beside_others(self.model.config)
        for key, source in zip(keys, images, strict=True):
            if key not in self.found:
                # An image that becomes other tiles beside others than alone is stored as it is alone.
                self.found[key] = None if beside_others else self._find(source)

    def _find(self, source: ImageSource) -> Entry | None:
        if isinstance(source, Image | FrameSource) or is_url(source):
            return None
        try:
            return self.store.find(source)
        except OSError:  # it cannot be read; whoever opens it says so
            return None

    def entry(self, key: str) -> Entry | None:
        """What the store has of an image that was looked for."""
        return self.found.get(key)

    @torch.inference_mode()
    def see(self, entries: Mapping[str, Entry]) -> dict[str, SeenImage]:
        """Images as `see_images` gives them, by key."""
        if not entries:
            return {}
        device, kept = self.model.device, kept_under(self.store, self.model.model)
        sizes = [entry.size for entry in entries.values()]
        if self.store.layout.stage == "projected":
            rows: Iterable[torch.Tensor] = [features_of(self.store, each, kept).to(device) for each in entries.values()]
        else:
            tokens = VisionTokens.join([tokens_of(self.store, each, kept) for each in entries.values()])
            rows = self.model.model.project(tokens.to(device), sizes)
        return {key: SeenImage(size, (each,)) for key, size, each in zip(entries, sizes, rows, strict=True)}
