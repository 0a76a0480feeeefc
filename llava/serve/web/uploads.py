"""An uploaded picture: it comes as a `data:` URL, so that no path or address of a visitor's is ever opened."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

from PIL import Image

from llava.images.decoding import UnreadableImageError
from llava.images.processing import load_image
from llava.serve.web.limits import Limits

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # others run programs or hold more than a picture
_LONGEST_NAME = 80


class NamedBytes(bytes):
    """The bytes of a file, which messages call by its name."""

    name: str


def read_upload(data: Any, name: Any, limits: Limits, config: Any) -> Image.Image:
    """Opens an upload.

    Args:
        data: `data:image/...;base64,...`, as the page sends it.
        name: What the visitor's file is called, for messages.
        limits: Bytes and pixels.
        config: The model's.

    Raises:
        UnreadableImageError: It is no such URL, too large, or no picture of a known format; the message names it.
    """
    named = str(name)[:_LONGEST_NAME] if name else "the upload"
    head, _, body = data.partition(",") if isinstance(data, str) else ("", "", "")
    if not head.startswith("data:") or not head.endswith(";base64"):
        raise UnreadableImageError(f"{named}: only an uploaded picture can be opened, no path and no address")
    if len(body) * 3 // 4 > limits.upload_bytes:
        raise UnreadableImageError(f"{named}: more than {limits.upload_bytes >> 20} MB; make the file smaller")
    try:
        content = NamedBytes(base64.b64decode(body, validate=True))
    except (binascii.Error, ValueError):
        raise UnreadableImageError(f"{named}: the upload is damaged; send it again") from None
    content.name = named
    try:
        Image.open(io.BytesIO(content), formats=_FORMATS).close()
        return load_image(content, limits.pixels, config)
    except Image.UnidentifiedImageError:
        raise UnreadableImageError(f"{named}: not a picture; send one of {', '.join(_FORMATS)}") from None
    except Exception as error:  # broken data makes Pillow's readers raise nearly anything
        told = str(error) if named in str(error) else f"{named}: {error}"
        raise UnreadableImageError(f"cannot read image {told}") from error
