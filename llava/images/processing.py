"""From an image to pixels: padding, any-resolution tiles. Pillow only; the pixels equal LLaVA's.

Every image size in this module is `(width, height)` in pixels, and so is every grid pinpoint; the one exception,
transformers' configs, is converted in `grid_pinpoints`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from llava.constants import DEFAULT_MAX_PIXELS
from llava.images.decoding import ImageDecodeError, ImageTooLargeError, check_size, load_image, to_rgb
from llava.images.rules import (
    Size,
    aspect_ratio_of,
    cuts_tiles,
    grid_pinpoints,
    one_tile_beside_others,
    parse_pinpoints,
)
from llava.images.tile_pixels import tile_pixels
from llava.kinds.families import FAMILIES
from llava.kinds.towers import TOWERS
from llava.plain_loading import reason
from llava.small_files import CheckpointError, MissingFileError, optional_json

if TYPE_CHECKING:
    import torch
    from transformers import BaseImageProcessor

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "ImageDecodeError",
    "ImageTooLargeError",
    "Size",
    "aspect_ratio_of",
    "divide_to_patches",
    "expand2square",
    "get_anyres_image_grid_shape",
    "grid_pinpoints",
    "load_image",
    "load_image_processor",
    "parse_pinpoints",
    "process_anyres_image",
    "process_beside_others",
    "process_images",
    "resize_and_pad_image",
    "select_best_resolution",
    "to_rgb",
    "unpadded_shape",
    "with_side",
]


# ----- Padding and tiles -------------------------------------------------------


def expand2square(pil_img: Image.Image, background_color: int | tuple[int, ...]) -> Image.Image:
    """Centre an image on a square of its longer side, filled with `background_color` (one value per band)."""
    width, height = pil_img.size
    if width == height:
        return pil_img
    side = max(width, height)
    square = Image.new(pil_img.mode, (side, side), background_color)
    square.paste(pil_img, ((side - width) // 2, (side - height) // 2))
    return square


def select_best_resolution(original_size: Size, possible_resolutions: Sequence[Sequence[int]]) -> Size:
    """Choose the resolution that keeps most of the image's pixels, and among equals the one that wastes fewest.

    Args:
        original_size: The image's (width, height).
        possible_resolutions: Candidates as (width, height); the first of several equals wins.

    Returns:
        The chosen (width, height).

    Raises:
        ValueError: There are no candidates, or the image has no pixels.
    """
    if not possible_resolutions:
        raise ValueError("`possible_resolutions` is empty: at least one (width, height) is needed.")
    original_width, original_height = original_size
    if original_width < 1 or original_height < 1:
        raise ValueError(f"an image of {original_width} x {original_height} pixels (width, height) has none.")

    def merit(resolution: Sequence[int]) -> tuple[int, int]:
        width, height = resolution
        scale = min(width / original_width, height / original_height)
        kept = int(original_width * scale) * int(original_height * scale)
        kept = min(kept, original_width * original_height)
        return kept, -(width * height - kept)

    width, height = max(possible_resolutions, key=merit)
    return width, height


def resize_and_pad_image(image: Image.Image, target_resolution: Size) -> Image.Image:
    """Scale an image (bicubic) to fit into `target_resolution` (width, height) and centre it there on black."""
    width, height = image.size
    target_width, target_height = target_resolution
    scale_width, scale_height = target_width / width, target_height / height
    if scale_width < scale_height:
        new_size = target_width, min(math.ceil(height * scale_width), target_height)
    else:
        new_size = min(math.ceil(width * scale_height), target_width), target_height
    canvas = Image.new("RGB", (target_width, target_height), (0, 0, 0))
    corner = (target_width - new_size[0]) // 2, (target_height - new_size[1]) // 2
    canvas.paste(image.resize(new_size), corner)
    return canvas


def divide_to_patches(image: Image.Image, patch_size: int) -> list[Image.Image]:
    """Cut an image into squares of `patch_size` pixels, row by row."""
    width, height = image.size
    return [
        image.crop((left, top, left + patch_size, top + patch_size))
        for top in range(0, height, patch_size)
        for left in range(0, width, patch_size)
    ]


# ----- Grids -------------------------------------------------------------------


def get_anyres_image_grid_shape(
    image_size: Size, grid_pinpoints: str | Sequence[Sequence[int]], patch_size: int
) -> Size:
    """Return (columns, rows) of the tiles that an image is cut into.

    Args:
        image_size: The image's (width, height).
        grid_pinpoints: Candidate resolutions, (width, height) each.
        patch_size: A tile's side in pixels.
    """
    width, height = select_best_resolution(image_size, parse_pinpoints(grid_pinpoints))
    return width // patch_size, height // patch_size


def unpadded_shape(
    rows: int, cols: int, image_size: Size, rule: Literal["llava", "transformers"] = "llava"
) -> tuple[int, int]:
    """Return the (rows, columns) of a feature grid that are left when the rows or columns of padding are dropped.

    Args:
        rows: Rows of the whole grid, in patches.
        cols: Columns of the whole grid, in patches.
        image_size: The original image's (width, height).
        rule: How the image's extent on the grid is rounded: `llava` cuts the fraction off, `transformers` first rounds
            it to seven places. They differ where the exact extent is whole (704x396 on 48x48: 26 rows or 28).

    Raises:
        ValueError: An unknown rule.
    """
    if rule not in ("llava", "transformers"):
        raise ValueError(f"rule={rule!r}: the unpadding rule is 'llava' or 'transformers'.")
    width, height = image_size

    def whole(extent: float) -> int:
        return int(extent) if rule == "llava" else int(round(extent, 7))

    # What is dropped is the same on both sides, so an odd remainder leaves one row (or column) of padding.
    if width / height > cols / rows:
        return rows - 2 * ((rows - whole(height * (cols / width))) // 2), cols
    return rows, cols - 2 * ((cols - whole(width * (rows / height))) // 2)


# ----- Pixels ------------------------------------------------------------------


def process_anyres_image(
    image: Image.Image, processor: BaseImageProcessor, grid_pinpoints: str | Sequence[Sequence[int]]
) -> torch.Tensor:
    """Turn one image into its base view and the tiles of the best-fitting grid.

    Args:
        image: An RGB image of any size.
        processor: A CLIP or SigLIP image processor, whose input size is a tile's size.
        grid_pinpoints: Candidate resolutions, (width, height) each.

    Returns:
        Pixels, (1 + tiles, 3, side, side): the whole image squeezed into one tile, then the tiles row by row.
    """
    tile_side, base_side = _input_sides(processor)
    resolution = select_best_resolution(image.size, parse_pinpoints(grid_pinpoints))
    tiles = divide_to_patches(resize_and_pad_image(image, resolution), tile_side)
    views = [image.resize((base_side, base_side)), *tiles]
    return tile_pixels(views, processor)


def _input_sides(processor: Any) -> tuple[int, int]:
    """Return a tile's side and the side that the base view is squeezed to; SigLIP's processor crops nothing."""
    size, crop = processor.size, getattr(processor, "crop_size", None)
    base = size.get("shortest_edge") or size["height"]
    return (crop["height"] if crop else base), base


def process_images(
    images: Sequence[Image.Image],
    image_processor: BaseImageProcessor,
    model_cfg: Any,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> torch.Tensor | list[torch.Tensor]:
    """Turn images into what `images=` of the model takes, as the config's `image_aspect_ratio` says.

    `pad`: each image is centred on a square of the processor's mean colour. `anyres` and `anyres_max_N`: base view and
    tiles (see `process_anyres_image`; the rule too of a transformers `llava_next` config that has no such entry).
    `square` or None: the image processor alone, which crops.

    Args:
        images: Images of any mode; what is not RGB is converted.
        image_processor: The tower's image processor.
        model_cfg: The model's config, or any object with its entries.
        max_pixels: The most pixels that an image may have, and may become by padding or scaling; None for no limit.

    Returns:
        (B, 3, H, W), for anyres (B, tiles, 3, H, W); a list of B tensors where their shapes differ.

    Raises:
        ImageTooLargeError: An image has or would become more than `max_pixels`.
        ValueError: No image, or an unknown `image_aspect_ratio`.
    """
    if not images:
        raise ValueError("`images` is empty: there is nothing to process.")
    for number, image in enumerate(images):
        check_size(image.size, f"image {number}", max_pixels, model_cfg, image_processor)
    images = [to_rgb(image) for image in images]
    aspect_ratio = aspect_ratio_of(model_cfg)
    if cuts_tiles(aspect_ratio):
        import torch

        pinpoints = grid_pinpoints(model_cfg)
        views = [process_anyres_image(image, image_processor, pinpoints) for image in images]
        return torch.stack(views) if len({view.shape for view in views}) == 1 else views
    if aspect_ratio == "pad":
        background = tuple(int(mean * 255) for mean in image_processor.image_mean)
        images = [expand2square(image, background) for image in images]
    return tile_pixels(images, image_processor)


def process_beside_others(
    images: Sequence[Image.Image],
    image_processor: BaseImageProcessor,
    model_cfg: Any,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> torch.Tensor | list[torch.Tensor]:
    """`process_images`, of images that stand in one prompt with others: padded to one tile each, if its family says so.

    Args:
        images: As for `process_images`.
        image_processor: As there.
        model_cfg: As there.
        max_pixels: As there.

    Returns:
        As `process_images`; of images without tiles (B, 1, 3, H, W), so that they end as tiled ones do.
    """
    if not one_tile_beside_others(model_cfg):
        return process_images(images, image_processor, model_cfg, max_pixels)
    padded = SimpleNamespace(image_aspect_ratio="pad")
    pixels = process_images(images, image_processor, padded, max_pixels)
    return pixels.unsqueeze(1)  # type: ignore[union-attr]


def with_side(processor: Any, side: int) -> Any:
    """The same image processor for square pictures of another side.

    Args:
        processor: A tower's.
        side: In pixels.
    """
    entries = processor.to_dict()
    sized = {name: dict.fromkeys(_given(entries[name]), side) for name in ("size", "crop_size") if entries.get(name)}
    return type(processor).from_dict({**entries, **sized})


def _given(size: Any) -> list[str]:
    """The names of a processor's size that have a value."""
    return [name for name, value in dict(size).items() if value is not None]


def load_image_processor(path: str | os.PathLike[str]) -> BaseImageProcessor:
    """Load the image processor of a checkpoint or a tower, always the Pillow one.

    transformers would otherwise take torchvision's where that is installed, whose pixels differ by up to 0.028.

    Args:
        path: A folder or Hub id with a preprocessor_config.json (or a processor_config.json that holds it).

    Raises:
        MissingFileError: There is no such file.
        CheckpointError: The file is damaged, or asks for another kind of processor.
    """
    import transformers
    from transformers.image_processing_base import ImageProcessingMixin

    found = [optional_json(Path(path), name) for name in ("preprocessor_config.json", "processor_config.json")]
    if Path(path).is_dir() and not any(found):
        raise MissingFileError(f"{path}: there is no preprocessor_config.json")
    fields, _ = ImageProcessingMixin.get_image_processor_dict(path)
    kind = fields.get("image_processor_type") or fields.get("feature_extractor_type") or ""
    plain = kind.removesuffix("Fast").removesuffix("Pil")
    tower = TOWERS.first(lambda tower: plain in tower.image_processors)
    family = FAMILIES.first(lambda family: plain in family.image_processors) if tower is None else None
    owner = tower or family
    if owner is None:
        types = sorted({entry for kinds in (TOWERS, FAMILIES) for each in kinds for entry in each.image_processors})
        raise CheckpointError(f"{path}: image_processor_type={kind!r} is not supported; known are {', '.join(types)}.")
    processor_class = getattr(transformers, owner.image_processors[plain])
    makes_tiles = family is not None and family.is_tiled
    known = set(processor_class.valid_kwargs.__annotations__) if makes_tiles else set(fields)
    try:
        return processor_class.from_dict({key: value for key, value in fields.items() if key in known})
    except Exception as error:
        raise CheckpointError(f"{path}: preprocessor_config.json: {reason(error)}") from error
