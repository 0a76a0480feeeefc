"""A picture that somebody else sends: its file within a size and a few formats, nothing else opened."""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image

from llava.images.decoding import UnreadableImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # others run programs or hold more than a picture


class NamedBytes(bytes):
    """The bytes of a file, which messages call by its name."""

    name: str


def read_data_url(url: str, name: str, max_bytes: int) -> NamedBytes:
    """The file in a `data:` URL.

    Args:
        url: `data:image/...;base64,...`.
        name: What messages call it.
        max_bytes: Of the file.

    Raises:
        UnreadableImageError: It is no such URL, too large or damaged.
    """
    head, _, body = url.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64"):
        raise UnreadableImageError(f"{name}: not of the form data:image/...;base64,...")
    if len(body) * 3 // 4 > max_bytes:
        raise UnreadableImageError(f"{name}: more than {max_bytes >> 20} MB; make the file smaller")
    try:
        content = NamedBytes(base64.b64decode(body, validate=True))
    except (binascii.Error, ValueError):
        raise UnreadableImageError(f"{name}: the upload is damaged; send it again") from None
    content.name = name
    return content


def check_format(content: bytes, name: str) -> None:
    """Looks whether a file is a picture of a format that is taken.

    Raises:
        UnreadableImageError: It is none; the message names it.
    """
    try:
        Image.open(io.BytesIO(content), formats=FORMATS).close()
    except Image.UnidentifiedImageError:
        raise UnreadableImageError(f"{name}: not a picture; send one of {', '.join(FORMATS)}") from None
    except Exception as error:  # broken data makes Pillow's readers raise nearly anything
        raise UnreadableImageError(f"cannot read image {name}: {error}") from None
