"""Which image belongs to which text: the ways in which a processor may be given both, checked and opened."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from llava.images.source import is_url, open_image

_DATA_URL = "data:image/"
_ENCODED = ";base64,"


def images_of_samples(
    texts: Sequence[str] | None, images: Any, image_token: str, config: Any = None
) -> list[Image.Image]:
    """Opens the images of a batch, in the order of their placeholders.

    Args:
        texts: The prompts; None if there are images only.
        images: None, one image, a list of images, or a list with a list (or None) for each text.
        image_token: What stands for an image in a text.
        config: The model's, or its entries about images; see `open_image`.

    Raises:
        ValueError: Images and placeholders differ in number, in all or in one text.
        UnreadableImageError: An image cannot be read.
    """
    if texts is not None and not all(isinstance(text, str) for text in texts):
        raise ValueError("text must be a str or a list of str")
    placed = [text.count(image_token) for text in texts or ()]
    is_list = isinstance(images, list | tuple)
    given = [] if images is None else list(images) if is_list else [images]
    if any(entry is None or isinstance(entry, list | tuple) for entry in given):
        given = by_sample(given, placed if texts is not None else None, image_token)
    elif texts is not None and sum(placed) != len(given):
        raise ValueError(
            f"the texts hold {sum(placed)} {image_token} (per text: {placed}), but {len(given)} images were given; "
            f"put one {image_token} for each image into the text, or use apply_chat_template, which does"
        )
    return [_opened(image, config) for image in given]


def beside_others(per_prompt: Sequence[int] | None, num_images: int) -> list[bool]:
    """Whether each image stands in one prompt with others.

    Args:
        per_prompt: How many images each prompt has, in order; None: each image has a prompt of its own.
        num_images: How many there are.
    """
    return [count > 1 for count in per_prompt or [1] * num_images for _ in range(count)]


def by_sample(given: Sequence[Any], placed: Sequence[int] | None, token: str, what: str = "images") -> list[Any]:
    """The images, or videos, of all texts in one list, each text's own number checked.

    Args:
        given: A list (or None, or one alone) for each text.
        placed: How many each text has a place for; None: there are no texts.
        token: What stands for one in a text.
        what: What messages call them.

    Raises:
        ValueError: They differ in number.
    """
    samples = [[] if entry is None else list(entry) if isinstance(entry, list | tuple) else [entry] for entry in given]
    if placed is not None:
        if len(samples) != len(placed):
            raise ValueError(f"{what} has {len(samples)} lists, one for each text, but there are {len(placed)} texts")
        for index, (sample, count) in enumerate(zip(samples, placed, strict=True)):
            if len(sample) != count:
                raise ValueError(f"text {index} holds {count} {token}, but {len(sample)} {what} were given for it")
    return [each for sample in samples for each in sample]


def _opened(image: Any, config: Any) -> Image.Image:
    """An image as RGB.

    Raises:
        ValueError: It is of no kind that is known here.
        UnreadableImageError: It cannot be read.
    """
    if isinstance(image, Image.Image | Path | bytes):
        return open_image(image, config)
    if isinstance(image, str):
        return open_image(_decoded(image) or image, config)
    if getattr(image, "dtype", None) is not None and str(image.dtype) == "uint8" and image.shape[2:] == (3,):
        return Image.fromarray(image)
    raise ValueError(
        f"an image is a {type(image).__name__}{_shape(image)}; give a PIL image, a path, a URL, or a uint8 array of "
        "shape (height, width, 3)"
    )


def _decoded(text: str) -> bytes | None:
    """The bytes that a base64 text holds; None for a path or URL."""
    if text.startswith(_DATA_URL) and _ENCODED in text:
        text = text.partition(_ENCODED)[2]
    elif is_url(text) or len(text) < 64 or (len(text) < 4096 and Path(text).exists()):
        return None
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def _shape(image: Any) -> str:
    shape = getattr(image, "shape", None)
    return "" if shape is None else f" of {getattr(image, 'dtype', 'unknown dtype')}, shape {tuple(shape)}"
