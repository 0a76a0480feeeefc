"""Where an image comes from: a path, a URL, encoded bytes, or a PIL image that is already there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
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
    "ImageSource",
    "UnreadableImageError",
    "download",
    "fetch_image",
    "image_size",
    "is_url",
    "name_of",
    "open_image",
    "source_key",
]

ImageSource: TypeAlias = str | Path | bytes | Image


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
    with _named(source):
        if isinstance(source, Image):
            check_size(source.size, name_of(source), config=config)
            return source.size
        return decoding.image_size(source, config=config)


def fetch_image(source: ImageSource) -> ImageSource:
    """What is at hand of an image before there is a model: a URL is downloaded, and its header is read.

    Raises:
        UnreadableImageError: It cannot be read; the message names it.
    """
    source = download(str(source)) if is_url(source) else source
    image_size(source)
    return source


def name_of(source: ImageSource) -> str:
    """What an image is called in messages; a URL without user and password."""
    if isinstance(source, Image):
        return "(a PIL image)"
    return shown_url(source_name(source))


def source_key(source: ImageSource) -> str:
    """A name by which the same image of one call is recognised."""
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
