"""Where an image comes from: a path, a URL, encoded bytes, or a PIL image that is already there."""

from __future__ import annotations

import hashlib
import io
import urllib.request
from pathlib import Path
from typing import TypeAlias

import PIL.Image
from PIL.Image import Image

from llava.images.processing import ImageDecodeError, load_image, to_rgb

ImageSource: TypeAlias = str | Path | bytes | Image

_URL_SCHEMES = ("http://", "https://")
_URL_TIMEOUT_S = 30
_URL_MAX_BYTES = 64 * 2**20


class UnreadableImageError(ValueError):
    """An image cannot be read; the message names it."""


def is_url(source: ImageSource) -> bool:
    """Whether an image is to be downloaded."""
    return isinstance(source, str) and source.startswith(_URL_SCHEMES)


def open_image(source: ImageSource) -> Image:
    """Opens an image as RGB.

    Args:
        source: A path, an http(s) URL, the bytes of an image file, or a PIL image.

    Raises:
        UnreadableImageError: It cannot be read; the message names it.
    """
    if is_url(source):
        return open_image(download(str(source)))
    if not isinstance(source, str | Path | bytes):
        return to_rgb(source)
    try:
        return load_image(source)
    except OSError as error:
        raise UnreadableImageError(f"cannot read image {_name(source)}: {error.strerror or error}") from error
    except ImageDecodeError as error:
        raise UnreadableImageError(f"cannot read image {error}") from error


def image_size(source: ImageSource) -> tuple[int, int]:
    """Size (w, h) of an image; of a file only the header is read.

    Raises:
        UnreadableImageError: It cannot be read; the message names it.
    """
    if is_url(source):
        return image_size(download(str(source)))
    if not isinstance(source, str | Path | bytes):
        return source.size
    try:
        with PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.size
    except PIL.UnidentifiedImageError:
        raise UnreadableImageError(f"cannot read image {_name(source)}: not in any format that Pillow knows") from None
    except OSError as error:
        raise UnreadableImageError(f"cannot read image {_name(source)}: {error.strerror or error}") from error
    except (ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"cannot read image {_name(source)}: {error}") from error


def source_key(source: ImageSource) -> str:
    """A name by which the same image of one call is recognised."""
    if isinstance(source, bytes):
        return f"bytes:{hashlib.sha256(source).hexdigest()}"
    if isinstance(source, str | Path):
        return f"path:{source}"
    return f"object:{id(source)}"


def _name(source: str | Path | bytes) -> str:
    if isinstance(source, Download):
        return source.url
    return f"({len(source)} bytes)" if isinstance(source, bytes) else str(source)


class Download(bytes):
    """What a URL gave, and which it was."""

    url: str


def download(url: str) -> Download:
    """Fetches an image; what comes is not looked into.

    Raises:
        UnreadableImageError: It cannot be had, or is too large; the message names the URL.
    """
    try:
        with urllib.request.urlopen(url, timeout=_URL_TIMEOUT_S) as response:
            content = response.read(_URL_MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableImageError(f"cannot download image {url}: {error}") from error
    if len(content) > _URL_MAX_BYTES:
        raise UnreadableImageError(f"image {url} is larger than {_URL_MAX_BYTES >> 20} MiB")
    result = Download(content)
    result.url = url
    return result
