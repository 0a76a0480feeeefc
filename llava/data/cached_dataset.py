"""The same samples, their images read as tokens from a store: no image is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from llava.data.dataset import ImageSize, LlavaDataset, Skipped, TrainingSample
from llava.data.records import images_of
from llava.encoded.serving import NamedImages
from llava.model.vision_tokens import VisionTokens


@dataclass(frozen=True)
class CachedImage:
    """Stands for an image that is not opened.

    Attributes:
        name: As the data have it.
        size: (w, h) before any resizing.
    """

    name: str
    size: ImageSize


class CachedDataset(LlavaDataset):
    """A `LlavaDataset` whose samples have `vision_tokens` in place of `images`."""

    def __init__(self, dataset: LlavaDataset, features: NamedImages) -> None:
        """Takes over a dataset.

        Args:
            dataset: Whose samples these are.
            features: Holds all of its images.
        """
        super().__init__(
            dataset.records,
            tokenizer=dataset.tokenizer,
            template=dataset.template,
            image_processor=dataset.image_processor,
            image_config=dataset.image_config,
            image_folder=dataset.image_folder,
            count_visual_tokens=dataset.count_visual_tokens,
            max_length=dataset.max_length,
            max_pixels=dataset.max_pixels,
        )
        self.features = features

    def __getitem__(self, index: int) -> TrainingSample | Skipped:
        example = self.example(index)
        if isinstance(example, Skipped):
            return example
        images: list[Any] = example.images
        return TrainingSample(
            input_ids=torch.tensor(example.input_ids, dtype=torch.int64),
            labels=torch.tensor(example.labels, dtype=torch.int64),
            images=[],
            image_sizes=[image.size for image in images],
            vision_tokens=VisionTokens.join([self.features.read(image.name) for image in images]) if images else None,
        )

    def load_images(self, record: dict[str, Any]) -> list[Any] | Skipped:
        """What the store knows of the images of an entry."""
        images = []
        for image in images_of(record):
            name = image if isinstance(image, str) else image.name
            entry = self.features.entry(name)
            if entry.problem or self.is_too_large(entry.size):
                return Skipped(entry.problem or "image too large", self.name_of(image))
            images.append(CachedImage(name, entry.size))
        return images
