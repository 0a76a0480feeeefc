"""Pixels of images that will be needed soon: made by worker processes, copied while the GPU works on earlier ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llava.image_processing import process_images
from llava.image_source import ImageSource, UnreadableImageError, open_image

_MOST_WORKERS = 8
_IMAGES_A_WORKER = 4  # fewer are not worth starting one; each has two prepared, so memory holds few


class ImagePixels(NamedTuple):
    """One image, ready for the vision tower.

    Attributes:
        key: The image's name in its call.
        size: (w, h) in pixels, before padding.
        pixels: What `process_images` gives for it alone, (1, 3, H, W) or (1, tiles, 3, H, W); None after an error.
        error: Why it cannot be read; empty if it can.
    """

    key: str
    size: tuple[int, int]
    pixels: Tensor | None
    error: str = ""


def number_of_workers(asked: int | None, device: torch.device) -> int:
    """Worker processes for a model on this device.

    Args:
        asked: A number; None for none on a CPU, which has work enough, and else for what cores there are.
        device: The model's.

    Raises:
        ValueError: The number is negative.
    """
    if asked is not None:
        if asked < 0:
            raise ValueError(f"image_workers must be 0 or more, got {asked}")
        return asked
    if device.type != "cuda":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(_MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


def join_pixels(parts: Sequence[Tensor]) -> Tensor | list[Tensor]:
    """What `process_images` gives for several images, from what it gave for each."""
    same = len({part.shape for part in parts}) == 1
    return torch.cat(list(parts)) if same else [part[0] for part in parts]


class ImageFeed:
    """Gives images in about the order in which they were announced. A context manager: leaving it ends the workers."""

    def __init__(
        self,
        sources: Mapping[str, ImageSource],
        image_processor: Any,
        config: Any,
        device: torch.device,
        workers: int = 0,
    ) -> None:
        """Starts the workers.

        Args:
            sources: Images by key, in the order in which they will be taken.
            image_processor: The tower's.
            config: The model's.
            device: Where the pixels are to be.
            workers: Processes, fewer if there are few images; 0 prepares each image when it is taken.
        """
        self._images = _Images(dict(sources), list(sources), image_processor, config)
        self._device = device
        self._waiting: dict[str, ImagePixels] = {}
        workers = min(workers, len(sources) // _IMAGES_A_WORKER)
        is_cuda = device.type == "cuda"
        self._copies = torch.cuda.Stream(device) if workers and is_cuda else None
        self._made = None
        if workers:
            loader = DataLoader(
                self._images,
                batch_size=None,
                num_workers=workers,
                collate_fn=_as_it_is,
                pin_memory=is_cuda,
                generator=torch.Generator(),  # or it would draw from the one that answers are sampled with
            )
            self._made = iter(loader)

    def __enter__(self) -> ImageFeed:
        """Does nothing: the workers have begun."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the workers, whatever they are doing; they end too if this process dies."""
        self._made = None  # the iterator's end is theirs
        self._waiting.clear()

    def take(self, keys: Sequence[str]) -> list[ImagePixels]:
        """Images in the given order, on the device, waited for where need be; unreadable ones come with an error."""
        taken = [self._find(key) for key in keys]
        if self._copies is not None:
            now = torch.cuda.current_stream(self._device)
            now.wait_stream(self._copies)
            for image in taken:
                if image.pixels is not None:
                    image.pixels.record_stream(now)
        return taken

    def look_ahead(self, count: int) -> None:
        """Copies the next images to the GPU, beside what runs there; does nothing on a CPU.

        Args:
            count: How many images are to be there.
        """
        while self._copies is not None and len(self._waiting) < count and self._fetch():
            pass

    def _find(self, key: str) -> ImagePixels:
        while key not in self._waiting and self._fetch():
            pass
        if key in self._waiting:
            return self._waiting.pop(key)
        return self._on_device(self._images.prepare(key))  # there are no workers, or it was taken before

    def _fetch(self) -> bool:
        """Takes what a worker has made; says whether there was anything more."""
        image = None if self._made is None else next(self._made, None)
        if image is not None:
            self._waiting[image.key] = self._on_device(image)
        return image is not None

    def _on_device(self, image: ImagePixels) -> ImagePixels:
        if image.pixels is None:
            return image
        with torch.cuda.stream(self._copies):  # of None: does nothing
            return image._replace(pixels=image.pixels.to(self._device, non_blocking=True))


@dataclass
class _Images(Dataset[ImagePixels]):
    """What the workers are given."""

    sources: dict[str, ImageSource]
    keys: list[str]
    image_processor: Any
    config: Any

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> ImagePixels:
        return self.prepare(self.keys[index])

    def prepare(self, key: str) -> ImagePixels:
        """Decodes, resizes and normalises."""
        try:
            image = open_image(self.sources[key])
        except UnreadableImageError as error:
            return ImagePixels(key, (0, 0), None, str(error))
        return ImagePixels(key, image.size, process_images([image], self.image_processor, self.config))  # type: ignore[arg-type]


def _as_it_is(image: Any) -> Any:
    return image
