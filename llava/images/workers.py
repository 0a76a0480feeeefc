"""Pixels of images that will be needed soon: made by worker processes, copied while the GPU works on earlier ones."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path
from traceback import clear_frames
from types import TracebackType
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llava.images.decoding import ImageTooLargeError, check_size
from llava.images.processing import aspect_ratio_of, grid_pinpoints, process_beside_others, process_images
from llava.images.rules import cuts_tiles
from llava.images.source import FrameSource, ImageSource, UnreadableImageError, name_of, open_image

_MOST_WORKERS = 8
_IMAGES_A_WORKER = 4  # fewer are not worth starting one
_SHARED_MEMORY = Path("/dev/shm")  # through which workers on Linux hand over what they make
_SHARE_OF_FREE = 0.5


class ImagePixels(NamedTuple):
    """One image, ready for the vision tower.

    Attributes:
        key: The image's name in its call.
        size: (w, h) in pixels, before padding.
        pixels: What `process_images` gives for it alone, (1, 3, H, W) or (1, tiles, 3, H, W), or what
            `process_beside_others` does; of a video (T, 3, H, W); None after an error.
        error: Why it cannot be read; empty if it can.
        indices: Of a video, which of its frames these are; empty for an image.
    """

    key: str
    size: tuple[int, int]
    pixels: Tensor | None
    error: str = ""
    indices: tuple[int, ...] = ()


def number_of_workers(asked: int | None, device: torch.device, cores: int | None = None) -> int:
    """Worker processes for a model on this device.

    Args:
        asked: A number; None for none on a CPU, which has work enough, and else for what cores there are.
        device: The model's.
        cores: Those of this machine; by default they are counted.

    Raises:
        ValueError: The number is negative.
    """
    if asked is not None:
        if asked < 0:
            raise ValueError(f"image_workers must be 0 or more, got {asked}")
        return asked
    if device.type != "cuda":
        return 0
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(_MOST_WORKERS, cores // _processes() - 1))


def share_out(workers: int, ahead: int, fits: int | None) -> tuple[int, int]:
    """Workers, and how many images each may have ready, so that all of these fit into shared memory.

    Beyond it the kernel ends a process with a bus error, as in a container with the usual 64 MiB.

    Args:
        workers: Processes at most.
        ahead: Images that should be ready together.
        fits: Images that fit; None if there is no limit.

    Returns:
        Both numbers; (0, 0) if not a single image fits.
    """
    workers = workers if fits is None else min(workers, fits)
    if workers < 1:
        return 0, 0
    each = -(-ahead // workers)
    return workers, max(1, each if fits is None else min(each, fits // workers))


def join_pixels(parts: Sequence[Tensor]) -> Tensor | list[Tensor]:
    """What `process_images` gives for several images, from what it gave for each."""
    same = len({part.shape for part in parts}) == 1 if parts else False
    return torch.cat(list(parts)) if same else [part[0] for part in parts]


class ReadyImage(bytes):
    """An image's file, and what it becomes: where others have prepared it before it is asked for.

    Attributes:
        name: What messages call it.
        ready: Without an error.
    """

    name: str
    ready: ImagePixels


def prepare_image(
    source: ImageSource, image_processor: Any, config: Any, *, key: str = "", beside_others: bool = False
) -> ImagePixels:
    """Decodes, resizes and normalises an image, or frames of a video; the result says why where that fails.

    Args:
        source: The image.
        image_processor: The tower's.
        config: The model's.
        key: The image's name in its call.
        beside_others: Whether it stands in one prompt with others.
    """
    try:
        if isinstance(source, FrameSource):
            frames = source.prepare(image_processor, config)
            return ImagePixels(key, frames.size, frames.pixels, indices=frames.indices)
        image = open_image(source, config)
        check_size(image.size, name_of(source), config=config, processor=image_processor)
        process = process_beside_others if beside_others else process_images
        pixels = process([image], image_processor, config)
    except UnreadableImageError as error:
        return ImagePixels(key, (0, 0), None, str(error))
    except ImageTooLargeError as error:
        return ImagePixels(key, (0, 0), None, f"cannot prepare image {error}")
    except MemoryError:
        raise  # the batch was too large
    except Exception as error:  # one bad image must not end thousands
        return ImagePixels(key, (0, 0), None, f"cannot prepare image {name_of(source)}: {error!r}")
    return ImagePixels(key, image.size, pixels)  # type: ignore[arg-type]


class ImageFeed:
    """Gives images in about the order in which they were announced. A context manager: leaving it ends the workers.

    What is taken twice, as after a batch that was too large, is prepared here: the workers make each image once.
    """

    def __init__(
        self,
        sources: Mapping[str, ImageSource],
        image_processor: Any,
        config: Any,
        device: torch.device,
        workers: int = 0,
        ahead: int = 16,
        beside_others: Set[str] = frozenset(),
    ) -> None:
        """Starts the workers.

        Args:
            sources: Images by key, in the order in which they will be taken.
            image_processor: The tower's.
            config: The model's.
            device: Where the pixels are to be.
            workers: Processes, fewer if there are few images or little shared memory; 0 prepares each image when it
                is taken.
            ahead: How many images the workers should have ready, those of a batch; fewer if memory is short.
            beside_others: Keys of images that stand in one prompt with others.
        """
        self._images = _Images(dict(sources), list(sources), image_processor, config, beside_others)
        self._device = device
        self._waiting: dict[str, ImagePixels] = {}
        workers = min(workers, len(sources) // _IMAGES_A_WORKER)
        if workers:
            fits, pictures = _fitting(image_processor, config), _most_pictures(sources.values(), config)
            workers, each = share_out(workers, ahead, None if fits is None else fits // pictures)
        is_cuda = device.type == "cuda"
        self._copies = torch.cuda.Stream(device) if workers and is_cuda else None
        self._thread = ThreadPoolExecutor(1)
        self._copying: Future[None] | None = None
        self._coming: set[str] = set()  # what the workers will still give
        self._made: Iterator[ImagePixels] = iter(())
        self._workers: set[BaseProcess] = set()
        self._is_alone = False
        if workers:
            loader = DataLoader(
                self._images,
                batch_size=None,
                num_workers=workers,
                prefetch_factor=each,
                collate_fn=_as_it_is,
                pin_memory=is_cuda,
                generator=torch.Generator(),  # or it would draw from the one that answers are sampled with
            )
            others = set(active_children())
            try:
                self._made = iter(loader)
            except BaseException as error:
                _forget_locals(error)
                raise
            self._workers = set(active_children()) - others
            self._coming = set(sources)

    def __enter__(self) -> ImageFeed:
        """Does nothing: the workers have begun."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the workers, whatever they are doing; they end too if this process dies."""
        made, self._made = self._made, iter(())
        self._thread.shutdown()  # it waits for one image at most
        del made  # the iterator's end is theirs
        self._waiting.clear()

    def take(self, keys: Sequence[str]) -> list[ImagePixels]:
        """Images in the given order, on the device, waited for where need be; unreadable ones come with an error."""
        if self._copying is not None:
            wait([self._copying])  # the death of a worker interrupts it; the thread is then waited for the next time
            copying, self._copying = self._copying, None
            copying.result()
        taken = [self._find(key) for key in keys]
        if self._copies is not None:
            now = torch.cuda.current_stream(self._device)
            now.wait_stream(self._copies)
            for image in taken:
                if image.pixels is not None:
                    image.pixels.record_stream(now)
        return taken

    def look_ahead(self, count: int) -> None:
        """Begins to bring what the workers make to the device, and returns at once.

        A thread waits for it: generation keeps this one, and after it nothing is left for the copies to go beside.

        Args:
            count: How many images are to be there.
        """
        if self._coming and self._copying is None:
            self._copying = self._thread.submit(self._fetch_until, count)

    def go_on_alone(self, error: BaseException) -> bool:
        """Whether an error is about a dead worker: then what is still needed is prepared here.

        Where an image is to blame, this process will say which: it dies while that is asked for. PyTorch tells of a
        dead worker wherever this process is at the time, so whoever takes images asks this of a RuntimeError.
        """
        alive = {worker for worker in self._workers if worker.is_alive()}
        if alive == self._workers:
            return False
        if not self._is_alone:
            reason = str(error).partition("\n")[0]
            warnings.warn(f"a process that prepares images has ended, this one goes on alone: {reason}", stacklevel=2)
        self._workers, self._is_alone = alive, True
        return True

    def forget(self, keys: Iterable[str]) -> None:
        """Lets go of the sources of images that will not be taken again."""
        for key in keys:
            self._images.sources.pop(key, None)

    def _find(self, key: str) -> ImagePixels:
        while key in self._coming and self._fetch():
            pass
        waiting = self._waiting.pop(key, None)
        return self._on_device(self._images.prepare(key)) if waiting is None else waiting

    def _fetch_until(self, count: int) -> None:
        while len(self._waiting) < count and self._fetch():
            pass

    def _fetch(self) -> bool:
        """Takes what a worker has made; says whether there was anything more."""
        try:
            image = next(self._made, None)
        except RuntimeError as error:
            if not (self.go_on_alone(error) or self._is_alone):
                raise
            self._made, image = iter(()), None
            _forget_locals(error)
        except BaseException as error:
            self._made = iter(())  # what is still needed is prepared here
            _forget_locals(error)
            raise
        if image is None:
            return False
        self._coming.discard(image.key)
        self._waiting[image.key] = self._on_device(image)
        return True

    def _on_device(self, image: ImagePixels) -> ImagePixels:
        if image.pixels is None:
            return image
        with torch.cuda.stream(self._copies):  # of None: does nothing
            shared = image.pixels.is_shared()  # then it is copied on a CPU too, for there is little such memory
            return image._replace(pixels=image.pixels.to(self._device, non_blocking=True, copy=shared))


@dataclass
class _Images(Dataset[ImagePixels]):
    """What the workers are given."""

    sources: dict[str, ImageSource]
    keys: list[str]
    image_processor: Any
    config: Any
    beside_others: Set[str]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> ImagePixels:
        return self.prepare(self.keys[index])

    def prepare(self, key: str) -> ImagePixels:
        """Decodes, resizes and normalises, unless that was done before."""
        source = self.sources[key]
        if isinstance(source, ReadyImage):
            return source.ready._replace(key=key)
        return prepare_image(
            source, self.image_processor, self.config, key=key, beside_others=key in self.beside_others
        )


def _as_it_is(image: Any) -> Any:
    return image


def _processes() -> int:
    """How many processes of a launcher share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _fitting(image_processor: Any, config: Any) -> int | None:
    """How many prepared images fit into shared memory; None where the system has no limit to it."""
    if not _SHARED_MEMORY.is_dir():
        return None
    sizes = grid_pinpoints(config) if cuts_tiles(aspect_ratio_of(config)) else [(1, 1)]
    largest = Image.new("RGB", max(sizes, key=lambda size: size[0] * size[1]))
    pixels = process_images([largest], image_processor, config)
    memory = os.statvfs(_SHARED_MEMORY)
    free = _SHARE_OF_FREE * memory.f_bavail * memory.f_frsize / _processes()
    return int(free // pixels.nbytes)  # type: ignore[union-attr]


def _most_pictures(sources: Iterable[ImageSource], config: Any) -> int:
    """Of how many pictures the largest of some images is."""
    return max(each.num_frames(config) if isinstance(each, FrameSource) else 1 for each in sources)


def _forget_locals(error: BaseException | None) -> None:
    """Empties the frames that an error has passed: the workers live for as long as one of them holds their iterator."""
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__context__
