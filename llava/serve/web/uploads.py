"""An uploaded picture: it comes as a `data:` URL, so that no path or address of a visitor's is ever opened."""

from __future__ import annotations

from typing import Any

from PIL import Image

from llava.images.decoding import UnreadableImageError
from llava.images.processing import load_image
from llava.serve.pictures import check_format, read_data_url
from llava.serve.web.limits import Limits

_LONGEST_NAME = 80


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
    if not isinstance(data, str) or not data.startswith("data:") or not data.partition(",")[0].endswith(";base64"):
        raise UnreadableImageError(f"{named}: only an uploaded picture can be opened, no path and no address")
    content = read_data_url(data, named, limits.upload_bytes)
    check_format(content, named)
    try:
        return load_image(content, limits.pixels, config)
    except Exception as error:  # broken data makes Pillow's readers raise nearly anything
        told = str(error) if named in str(error) else f"{named}: {error}"
        raise UnreadableImageError(f"cannot read image {told}") from error
