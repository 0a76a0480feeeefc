"""Where an image comes from: a path, a URL, encoded bytes, or a PIL image that is already there."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from PIL.Image import Image

from llava.images import decoding
from llava.images.decoding import (
    ImageDecodeError,
    UnreadableImageError,
    check_size,
    load_image,
    source_name,
    to_rgb,
)
from llava.images.download import Download, download, is_url, shown_url

__all__ = [
    "Download",
    "FrameSource",
    "ImageSource",
    "PreparedFrames",
    "UnreadableImageError",
    "download",
    "fetch_image",
    "image_size",
    "is_url",
    "name_of",
    "open_image",
    "source_key",
]


@dataclass(frozen=True)
class PreparedFrames:
    """Several pictures that are one thing to a model, ready for the vision tower.

    Attributes:
        size: (w, h) of a picture, in pixels.
        pixels: (T, 3, H, W).
        indices: Which pictures of the source these are, T numbers from 0.
    """

    size: tuple[int, int]
    pixels: Any
    indices: tuple[int, ...]


class FrameSource(ABC):
    """Stands among images for several pictures that are one thing to a model, a video above all."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call it."""

    @property
    @abstractmethod
    def key(self) -> str:
        """A name by which the same one of a call is recognised."""

    @abstractmethod
    def check(self) -> None:
        """Looks, without decoding all of it, whether it can be read; raises UnreadableImageError."""

    @abstractmethod
    def num_frames(self, config: Any) -> int:
        """How many pictures of it a model sees; raises ValueError if it sees none of the kind.

        Args:
            config: Of the model.
        """

    @abstractmethod
    def prepare(self, image_processor: Any, config: Any) -> PreparedFrames:
        """Reads and normalises what the model sees; raises UnreadableImageError, and ValueError as `num_frames`.

        Args:
            image_processor: Of the model.
            config: Of the model.
        """


ImageSource: TypeAlias = str | Path | bytes | Image | FrameSource


def open_image(source: ImageSource, config: Any = None) -> Image:
    """Opens an image as RGB.

    Args:
        source: A path, an http(s) URL, the bytes of an image file, or a PIL image.
        config: Of the model that is to see it: says whether a photo is turned by its EXIF tag, and what the image
            becomes, which is bounded. A PIL image is never turned: transformers does not either.

    Raises:
        UnreadableImageError: It cannot be read, or is or becomes too large; the message names it.
    """
    source = download(str(source)) if is_url(source) else source
    if isinstance(source, FrameSource):
        raise UnreadableImageError(f"{source.name} is a video, and an image is wanted")
    with _named(source):
        if isinstance(source, Image):
            check_size(source.size, name_of(source), config=config)
            return to_rgb(source)
        return load_image(source, config=config)


def image_size(source: ImageSource, config: Any = None) -> tuple[int, int]:
    """Size (w, h) of what `open_image` would give; of a file only the header is read.

    Raises:
        UnreadableImageError: It cannot be read, or is or becomes too large; the message names it.
    """
    source = download(str(source)) if is_url(source) else source
    if isinstance(source, FrameSource):
        raise UnreadableImageError(f"{source.name} is a video, and an image is wanted")
    with _named(source):
        if isinstance(source, Image):
            check_size(source.size, name_of(source), config=config)
            return source.size
        return decoding.image_size(source, config=config)


def fetch_image(source: ImageSource, *, public_only: bool = False) -> ImageSource:
    """What is at hand of an image before there is a model: a URL is downloaded, and its header is read.

    Args:
        source: The image.
        public_only: As of `download`.

    Raises:
        UnreadableImageError: It cannot be read; the message names it.
    """
    if isinstance(source, FrameSource):
        source.check()
        return source
    source = download(str(source), public_only=public_only) if is_url(source) else source
    image_size(source)
    return source


def name_of(source: ImageSource) -> str:
    """What an image is called in messages; a URL without user and password."""
    if isinstance(source, FrameSource):
        return source.name
    if isinstance(source, Image):
        return "(a PIL image)"
    return shown_url(source_name(source))


def source_key(source: ImageSource) -> str:
    """A name by which the same image of one call is recognised."""
    if isinstance(source, FrameSource):
        return source.key
    if isinstance(source, bytes):
        return f"bytes:{hashlib.sha256(source).hexdigest()}"
    if isinstance(source, str | Path):
        return f"path:{source}"
    return f"object:{id(source)}"


@contextmanager
def _named(source: ImageSource) -> Iterator[None]:
    """Turns what reading raises into the one error that callers know."""
    try:
        yield
    except OSError as error:
        raise UnreadableImageError(f"cannot read image {name_of(source)}: {error.strerror or error}") from error
    except ImageDecodeError as error:
        raise UnreadableImageError(f"cannot read image {error}") from error
