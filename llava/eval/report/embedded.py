"""Pictures inside a page: addresses that hold the bytes, so that a page needs no other file."""

from __future__ import annotations

import base64
import io

from llava.images.source import ImageSource, UnreadableImageError, open_image

THUMBNAIL = 256
"""Pixels of a thumbnail's longer side."""


def address_of(content: bytes, kind: str) -> str:
    """An address that holds an encoded picture.

    Args:
        content: The file's bytes.
        kind: `jpeg`, `png`...
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail(source: ImageSource) -> str:
    """A small JPEG as an address that holds it, or why there is none."""
    try:
        image = open_image(source)
    except UnreadableImageError as error:
        return str(error)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "jpeg", quality=80)
    return address_of(stream.getvalue(), "jpeg")
