"""Samples become a batch in LLaVA's calling convention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX
from llava.data.dataset import Skipped, TrainingSample
from llava.model.vision_tokens import VisionTokens


@dataclass(frozen=True)
class Collator:
    """Pads on the right; the mask comes from the lengths, so a pad token inside a text stays visible.

    Attributes:
        pad_token_id: What fills `input_ids`; any id will do, it is masked.
    """

    pad_token_id: int = 0

    def __call__(self, samples: Sequence[TrainingSample | Skipped]) -> dict[str, Any]:
        """Makes the batch.

        Returns:
            `input_ids`, `labels`, `attention_mask` (B, T); `images`, one stacked tensor if their shapes agree, else a
            list, flat over the batch in the order of the placeholders, or `vision_tokens` in their place;
            `image_sizes`, (w, h) each; all absent if no sample has an image. `skipped`: (reason, name) of the
            samples left out. If none is left, one row without targets keeps the batch alive.
        """
        kept = [sample for sample in samples if isinstance(sample, TrainingSample)]
        skipped = [(sample.reason, sample.name) for sample in samples if isinstance(sample, Skipped)]
        ids = [sample.input_ids for sample in kept] or [torch.tensor([self.pad_token_id])]
        labels = [sample.labels for sample in kept] or [torch.tensor([IGNORE_INDEX])]
        batch: dict[str, Any] = {
            "input_ids": _pad(ids, self.pad_token_id),
            "labels": _pad(labels, IGNORE_INDEX),
            "attention_mask": _pad([torch.ones_like(row) for row in ids], 0),
            "skipped": skipped,
        }
        images = [image for sample in kept for image in sample.images]
        if images:
            same_shape = all(image.shape == images[0].shape for image in images)
            batch["images"] = torch.stack(images) if same_shape else images
        seen = [sample.vision_tokens for sample in kept if sample.vision_tokens is not None]
        if seen:
            batch["vision_tokens"] = VisionTokens.join(seen)
        if images or seen:
            batch["image_sizes"] = [size for sample in kept for size in sample.image_sizes]
        return batch


def _pad(rows: list[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
