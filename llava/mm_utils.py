"""LLaVA's public helpers around a multimodal prompt, under the names and signatures that programs import.

A facade: the functions live in `llava.images` and `llava.prompts`, and no module of this package imports this one.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from llava.images.processing import (
    divide_to_patches,
    expand2square,
    get_anyres_image_grid_shape,
    load_image,
    process_anyres_image,
    process_images,
    resize_and_pad_image,
    select_best_resolution,
)
from llava.prompts.stopping import KeywordsStoppingCriteria
from llava.prompts.tokens import tokenizer_image_token
from llava.utils import get_model_name_from_path

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "KeywordsStoppingCriteria",
    "divide_to_patches",
    "expand2square",
    "get_anyres_image_grid_shape",
    "get_model_name_from_path",
    "load_image_from_base64",
    "process_anyres_image",
    "process_images",
    "resize_and_pad_image",
    "select_best_resolution",
    "tokenizer_image_token",
]


def load_image_from_base64(image: str | bytes) -> Image.Image:
    """Decode a base64 text into an RGB image.

    Raises:
        ImageDecodeError: The decoded bytes are no image.
    """
    return load_image(base64.b64decode(image))
