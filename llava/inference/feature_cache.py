"""Encoded images that are kept from call to call, up to a size: whoever was not asked about for longest goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from llava.inference.seen_images import SeenImage
from llava.model.restore.placed_tokens import PlacedTokens

_BY_CONTENT = (
    "bytes:"  # in the key of an image that is named by its bytes; a path may hold another one by the next call
)


class FeatureCache:
    """Images as `see_images` gives them, by the budget they were encoded under and their key.

    Attributes:
        most_bytes: That are kept.
        held_bytes: That are kept now.
        hits: How often an image was found.
        misses: How often it was not.
    """

    def __init__(self, most_bytes: int) -> None:
        """Begins empty.

        Args:
            most_bytes: To keep at most, where the images are: on the model's device.
        """
        self.most_bytes = most_bytes
        self.held_bytes = self.hits = self.misses = 0
        self._kept: OrderedDict[tuple[str, str], tuple[SeenImage, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def holds(self, budget: str, key: str) -> bool:
        """Whether an image is kept; may be asked by any thread, and counts as no use of it."""
        return (budget, key) in self._kept

    def find(self, budget: str, keys: Iterable[str]) -> dict[str, SeenImage]:
        """Those of some images that are kept.

        Args:
            budget: Of the model, as text.
            keys: Of `image_keys`.
        """
        found = {}
        for key in keys:
            if _BY_CONTENT not in key:
                continue
            kept = self._kept.get((budget, key))
            if kept is None:
                self.misses += 1
                continue
            self.hits += 1
            self._kept.move_to_end((budget, key))
            found[key] = kept[0]
        return found

    def add(self, budget: str, images: Mapping[str, SeenImage]) -> None:
        """Keeps images that were just encoded; others go where there is no room."""
        for key, image in images.items():
            if _BY_CONTENT not in key or (budget, key) in self._kept:
                continue
            alone = _alone(image)
            size = _num_bytes(alone)
            if size > self.most_bytes:
                continue
            self._kept[budget, key] = alone, size
            self.held_bytes += size
        while self.held_bytes > self.most_bytes:
            _, (_, size) = self._kept.popitem(last=False)
            self.held_bytes -= size


def _alone(value: Any) -> Any:
    """A copy that shares no memory with others of its batch, which would be kept with it."""
    if isinstance(value, PlacedTokens):
        return PlacedTokens.of(value.clone(), value.places.clone(), value.sizes.clone(), value.num_rows)
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple | list):
        return type(value)(_alone(each) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _alone(getattr(value, each.name)) for each in fields(value) if each.init})
    return value


def _num_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, tuple | list):
        return sum(map(_num_bytes, value))
    if is_dataclass(value) and not isinstance(value, type):
        return sum(_num_bytes(getattr(value, each.name)) for each in fields(value))
    return 0
