"""An image of a request: its file, from a `data:` URL or from the web, and its pixels, before its turn comes."""

from __future__ import annotations

from typing import Any

from llava.images.decoding import ImageDecodeError, UnreadableImageError, image_size
from llava.images.source import download, is_url
from llava.images.store import image_keys
from llava.images.workers import ReadyImage, prepare_image
from llava.inference import Inference
from llava.model.configuration import CompressionConfig
from llava.serve.api.errors import invalid
from llava.serve.api.limits import Limits
from llava.serve.pictures import check_format, read_data_url


def read_image(url: str, place: int, limits: Limits, config: Any, *, allow_private: bool) -> bytes:
    """The bytes of an image's file, of which the header has been read.

    Args:
        url: `data:image/...;base64,...`, or of http or https.
        place: Which image of the request it is, from 0.
        limits: Bytes, pixels and seconds.
        config: The model's.
        allow_private: Whether it may lie in a private network.

    Raises:
        ApiError: It cannot be had, is too large, or is no picture; the message names it.
    """
    name = f"image {place + 1}"
    try:
        if url.startswith("data:"):
            content: bytes = read_data_url(url, name, limits.image_bytes)
        elif is_url(url):
            content = download(url, limits.fetch_seconds, public_only=not allow_private, max_bytes=limits.image_bytes)
        else:
            raise UnreadableImageError(f"{name}: an image's url begins with data:, http:// or https://")
        check_format(content, getattr(content, "name", name))
        image_size(content, limits.pixels, config)
    except (UnreadableImageError, ImageDecodeError) as error:
        raise invalid(str(error), "messages", "invalid_image") from None
    return content


def make_ready(
    content: bytes, place: int, inference: Inference, budget: CompressionConfig | None, *, beside_others: bool
) -> bytes:
    """The file with its pixels prepared, so that the engine need not wait; as it is where the image is kept encoded.

    Args:
        content: Of `read_image`.
        place: As there.
        inference: The model, of which nothing is asked.
        budget: Of the request.
        beside_others: Whether the request has other images.

    Raises:
        ApiError: It cannot be decoded.
    """
    config, cache = inference.model.config, inference.feature_cache
    key = image_keys([content] * (1 + beside_others), config)[0]
    if cache is not None and cache.holds(str(budget), key):
        return content
    ready = ReadyImage(content)
    ready.name = getattr(content, "name", f"image {place + 1}")
    pixels = prepare_image(ready, inference.image_processor, config, key=key, beside_others=beside_others)
    if pixels.pixels is None:
        raise invalid(pixels.error, "messages", "invalid_image")
    ready.ready = pixels
    return ready
