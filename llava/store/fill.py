"""Opens images, encodes them and adds them to a store: the one loop of `llava store build` and of training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from llava.constants import DEFAULT_MAX_PIXELS
from llava.encoded.errors import StoreError
from llava.encoded.index import FileStamp
from llava.encoded.writer import StoreWriter
from llava.images.processing import ImageDecodeError, ImageTooLargeError, load_image, process_images
from llava.store.encoder import Encoder

BATCH = 16
"""Images that the tower encodes at a time."""
TOO_LARGE = "image too large"
UNDECODABLE = "undecodable image"


@dataclass(frozen=True)
class NamedFile:
    """An image that is to be in a store.

    Attributes:
        stamp: By which it is recognised unopened.
        read: Gives its file, or its bytes.
    """

    stamp: FileStamp
    read: Callable[[], Path | bytes] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Opening:
    """How images become pixels.

    Attributes:
        image_processor: The tower's.
        config: Says the form of images.
        max_pixels: Images of more are left out; None for no limit.
    """

    image_processor: Any
    config: Any
    max_pixels: int | None = DEFAULT_MAX_PIXELS


@dataclass
class Filled:
    """What a process has done.

    Attributes:
        encoded: Images that the tower has seen.
        problems: Those that cannot be decoded or are too large: path and reason.
    """

    encoded: int = 0
    problems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Opened:
    """A file that was opened; `pixels` are absent if its content is known or cannot be decoded."""

    stamp: FileStamp
    content: str
    size: tuple[int, int] = (0, 0)
    pixels: Tensor | None = None
    problem: str = ""


@dataclass
class _Unseen(Dataset[_Opened]):
    """Reads, hashes and decodes images; those whose content is known are not decoded."""

    files: Sequence[NamedFile]
    opening: Opening
    known: frozenset[str]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> _Opened:
        given, how = self.files[index], self.opening
        found = given.read()
        file = found.read_bytes() if isinstance(found, Path) else found
        content = hashlib.sha256(file).hexdigest()
        if content in self.known:
            return _Opened(given.stamp, content)
        try:
            decoded = load_image(file, how.max_pixels, how.config, how.image_processor)
            pixels = process_images([decoded], how.image_processor, how.config, how.max_pixels)[0]
        except ImageTooLargeError:
            return _Opened(given.stamp, content, problem=TOO_LARGE)
        except ImageDecodeError:
            return _Opened(given.stamp, content, problem=UNDECODABLE)
        return _Opened(given.stamp, content, decoded.size, pixels)


def fill(
    writer: StoreWriter,
    files: Sequence[NamedFile],
    encoder: Encoder,
    opening: Opening,
    *,
    known: frozenset[str] = frozenset(),
    workers: int = 0,
    batch_size: int = BATCH,
    quiet: bool = False,
) -> Filled:
    """Adds what a store lacks of some images.

    Args:
        writer: Of the store.
        files: Those that the store does not know by their stamps.
        encoder: Makes their rows.
        opening: Makes their pixels.
        known: Contents that need not be decoded.
        workers: Processes that open images.
        batch_size: Images that the tower sees at a time.
        quiet: Whether to show no progress.

    Raises:
        OSError: A file cannot be read, or the disk takes no shard.
        StoreError: Features do not fit the store's type.
    """
    loader = DataLoader(
        _Unseen(files, opening, known),
        batch_size=batch_size,
        num_workers=min(workers, len(files)),
        collate_fn=list,
        generator=torch.Generator(),  # training's own draws stay as they are without a store
    )
    done = Filled()
    with tqdm(total=len(files), unit="image", desc="encoding", disable=quiet) as bar:
        for batch in loader:
            _add(writer, batch, encoder, done)
            bar.set_postfix_str(f"{writer.taken_bytes / 1e9:.3g} GB", refresh=False)
            bar.update(len(batch))
    return done


def _add(writer: StoreWriter, batch: Sequence[_Opened], encoder: Encoder, done: Filled) -> None:
    """Encodes the images of a batch whose content is new, and takes note of all."""
    fresh = {item.content: item for item in batch if item.pixels is not None and not writer.holds(item.content)}
    if fresh:
        rows = encoder([item.pixels for item in fresh.values()], [item.size for item in fresh.values()])  # type: ignore[misc]
        for content, image in zip(fresh, rows, strict=True):
            try:
                writer.add(content, image)
            except StoreError as error:
                raise StoreError(f"{fresh[content].stamp.path}: {error}") from error
        done.encoded += len(fresh)
    for item in batch:
        if item.problem:
            writer.add_problem(item.content, item.problem)
            done.problems[item.stamp.path] = item.problem
    writer.add_stamps((item.stamp, item.content) for item in batch)
