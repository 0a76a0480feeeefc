"""What tower and compressor make of images, before the projector: the last thing that tuning does not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from llava.model.multimodal_compressor import VisionFeatures


@dataclass(frozen=True)
class VisionTokens:
    """The tiles of several images. It moves between devices like a tensor, so that it can stand in a batch.

    Attributes:
        tokens: (T, K, C), the tiles of all images.
        counts: Tiles of each image; they add up to T. None for images that are single tiles and nothing more: no
            newline follows them, as LLaVA has it for a 4-D tensor of images.
        positions: (T, K), integers as in `CompressedTokens`; None without compression.
        num_dominant: How many of the K are dominant; 0 without compression.
        splits: How many dominant and contextual tokens each tile has, where tiles differ; rows behind them mean
            nothing.
        features: What a compressor that stands behind the projector, or reads the question, will choose from; `tokens`
            are then all patches. None where there is nothing more to choose.
        sizes: (T, K), as in `CompressedTokens`, where the language model is told of them; else None.
    """

    tokens: Tensor
    counts: Sequence[int] | None
    positions: Tensor | None = None
    num_dominant: int = 0
    splits: Sequence[tuple[int, int]] | None = None
    features: VisionFeatures | None = None
    sizes: Tensor | None = None

    def __len__(self) -> int:
        """How many images."""
        return len(self.tokens) if self.counts is None else len(self.counts)

    @classmethod
    def join(cls, parts: Sequence[VisionTokens]) -> VisionTokens:
        """Joins images that the same tower and compressor encoded."""
        counts = [part.counts for part in parts if part.counts is not None]
        positions = [part.positions for part in parts if part.positions is not None]
        return cls(
            torch.cat([part.tokens for part in parts]),
            list(chain.from_iterable(counts)) if counts else None,
            torch.cat(positions) if positions else None,
            parts[0].num_dominant,
        )

    def to(self, device: Any, non_blocking: bool = False) -> VisionTokens:
        """Moves it."""
        positions = None if self.positions is None else self.positions.to(device, non_blocking=non_blocking)
        return replace(self, tokens=self.tokens.to(device, non_blocking=non_blocking), positions=positions)

    def pin_memory(self) -> VisionTokens:
        """For the data loader."""
        positions = None if self.positions is None else self.positions.pin_memory()
        return replace(self, tokens=self.tokens.pin_memory(), positions=positions)
