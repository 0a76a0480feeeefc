"""`VisionFeatures` of several images, taken apart and put together: an image is encoded once and asked about often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from llava.model.multimodal_compressor.types import VisionFeatures


def split_features(features: VisionFeatures, counts: Sequence[int]) -> list[VisionFeatures]:
    """The features of each image.

    Args:
        features: Of T tiles.
        counts: Tiles of each image; they add up to T.
    """
    ends = torch.tensor(counts).cumsum(0).tolist()
    return [_part(features, slice(end - count, end)) for count, end in zip(counts, ends, strict=True)]


def pick_tiles(features: VisionFeatures, index: Tensor) -> VisionFeatures:
    """The features of some tiles.

    Args:
        features: Of T tiles.
        index: (n,), int64, in 0..T-1.
    """
    picked: VisionFeatures = _part(features, index)
    return picked


def join_features(parts: Sequence[VisionFeatures]) -> VisionFeatures:
    """The features of several images in one batch."""
    if len(parts) == 1:
        return parts[0]
    joined: VisionFeatures = _joined(parts)
    if joined.image_index is None:
        return joined
    index, before = [], 0
    for part in parts:
        assert part.image_index is not None
        index.append(part.image_index - part.image_index.min() + before)
        before += len(part.content)
    return replace(joined, image_index=torch.cat(index))


def _part(value: Any, tiles: slice | Tensor) -> Any:
    """The same with some tiles only."""
    if isinstance(value, Tensor):
        return value[tiles]
    if isinstance(value, tuple) and value and isinstance(value[0], Tensor):
        return tuple(_part(part, tiles) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{entry.name: _part(getattr(value, entry.name), tiles) for entry in fields(value)})
    return value


def _joined(values: Sequence[Any]) -> Any:
    """Tensors end to end; what is no tensor is alike in all."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, tuple) and first and isinstance(first[0], Tensor):
        return tuple(_joined(parts) for parts in zip(*values, strict=True))
    if is_dataclass(first) and not isinstance(first, type):
        changed = {entry.name: _joined([getattr(value, entry.name) for value in values]) for entry in fields(first)}
        return replace(first, **changed)
    return first
