"""An encoded image becomes RGB: the one opener of image files, within bounds that are checked in the header."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from llava.constants import DEFAULT_MAX_PIXELS
from llava.images.rules import Size, processed_pixels, turns_photos
from llava.plain_files import NotAFileError, check_is_file
from llava.utils import shown

_ORIENTATION = 0x0112  # EXIF's tag
_TURNED = range(2, 9)  # its values that ask for a turn or a mirror
_ON_THE_SIDE = range(5, 9)  # those that swap width and height
_TURNED_BY_PILLOW = "TIFF"  # for everyone, and its size is told as it will be


class UnreadableImageError(ValueError):
    """An image cannot be read; the message names it."""


class ImageDecodeError(ValueError):
    """An image cannot be decoded: unknown format, damaged or truncated data. The message names the file."""


class ImageTooLargeError(ImageDecodeError):
    """An image has, or would become, more pixels than the limit; nothing of it has been decoded."""


def load_image(
    source: str | os.PathLike[str] | bytes,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    config: Any = None,
    processor: Any = None,
) -> Image.Image:
    """Decode an image completely and convert it to RGB.

    Transparency is dropped, as LLaVA does; 16-bit greys are scaled to 8 bits. The EXIF orientation is ignored, with a
    warning, unless the config is of a checkpoint that follows transformers' rules (`turns_photos`).

    Args:
        source: A path, or the bytes of an encoded image; their attribute `name`, if they have one, names them.
        max_pixels: The most pixels that the image may have, and may become on its way to the tower; None for no limit.
        config: The model's config, or any object with its entries; None: what it becomes is not known here.
        processor: The image processor that is to see it, for what it becomes; see `processed_pixels`.

    Raises:
        FileNotFoundError: The file does not exist.
        ImageTooLargeError: The header announces more than `max_pixels` pixels, or a size that becomes more.
        ImageDecodeError: The data is no image, is damaged, or ends too early; or the path is a pipe or a device.
    """
    with _opened(source) as image:
        check_size(image.size, source_name(source), max_pixels, config, processor)
        image.load()
        orientation = _orientation(image)
        upright: Image.Image = image
        if orientation in _TURNED and turns_photos(config):
            upright = ImageOps.exif_transpose(image)
        elif orientation in _TURNED:
            _warn_of_orientation()
        rgb = to_rgb(upright)
        return rgb.copy() if rgb is image else rgb  # a copy keeps neither the file nor its metadata


def image_size(
    source: str | os.PathLike[str] | bytes, max_pixels: int | None = DEFAULT_MAX_PIXELS, config: Any = None
) -> Size:
    """The (width, height) that `load_image` would give, from the header; raises as it does, so far as that tells."""
    with _opened(source) as image:
        check_size(image.size, source_name(source), max_pixels, config)
        width, height = image.size
        if turns_photos(config):
            may_turn = width != height and image.format != _TURNED_BY_PILLOW
            return (height, width) if may_turn and _orientation(image) in _ON_THE_SIDE else (width, height)
        if config is not None and "exif" in image.info and _orientation(image) in _TURNED:
            _warn_of_orientation()
        return width, height


def largest_on_the_way(size: Size, config: Any, processor: Any, max_pixels: int) -> int:
    """The pixels that an image becomes, for a limit; the processor's own size counts only beyond the usual limit.

    A limit below the size of the tower's input is about images, and no image would meet it otherwise.

    Args:
        size: The image's (width, height).
        config: The model's config.
        processor: The image processor, or None.
        max_pixels: The limit.
    """
    seen = processed_pixels(size, config, processor)
    return seen if seen > max(max_pixels, DEFAULT_MAX_PIXELS) else processed_pixels(size, config)


def check_size(
    size: Size,
    name: str,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    config: Any = None,
    processor: Any = None,
) -> None:
    """Refuses an image that is too large, or becomes too large on its way to the tower.

    Args:
        size: Its (width, height).
        name: For the message.
        max_pixels: The limit; None for none.
        config: The model's config; None: only the image's own pixels count.
        processor: The image processor, whose size counts too; see `processed_pixels`.

    Raises:
        ImageTooLargeError: It is.
    """
    if max_pixels is None:
        return
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{name}: {width}x{height} pixels are more than the limit of {max_pixels}; shrink the image."
        )
    becomes = 0 if config is None else largest_on_the_way(size, config, processor, max_pixels)
    if becomes > max_pixels:
        raise ImageTooLargeError(
            f"{name}: {width}x{height} pixels become {becomes} once padded or scaled for the vision tower, more than "
            f"the limit of {max_pixels}; cut the image into parts or shrink it."
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image in 8-bit RGB; an RGB image is returned as it is.

    Pillow clips 16-bit greys at 255, which turns them white; here their high byte is kept.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    return image.convert("RGB")


def source_name(source: str | os.PathLike[str] | bytes) -> str:
    """What a path or the bytes of an image are called in messages."""
    if isinstance(source, bytes):
        return getattr(source, "name", "") or f"<{len(source)} bytes>"
    return shown(os.fspath(source))


@contextmanager
def _opened(source: str | os.PathLike[str] | bytes) -> Iterator[Image.Image]:
    """The image, its header read; what its reading raises, now and later, becomes an error that names it."""
    name = source_name(source)
    try:
        if not isinstance(source, bytes):
            _check_is_file(source, name)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            yield image
    except (ImageDecodeError, FileNotFoundError, IsADirectoryError, PermissionError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageDecodeError(f"{name}: not an image in any format that Pillow knows.") from error
    except Exception as error:  # broken data makes Pillow's decoders raise nearly anything
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageDecodeError(f"{name}: the image cannot be decoded ({shown(reason)}).") from error


def _check_is_file(path: str | os.PathLike[str], name: str) -> None:
    """Refuses what would be waited for without end, or has no end: a pipe, a socket, a device."""
    try:
        check_is_file(path)
    except NotAFileError:
        raise ImageDecodeError(f"{name}: a pipe, a socket or a device, not a file with an image.") from None


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 (upright) where there is none that can be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata raise nearly anything, and the pixels do not need them
        return 1


def _warn_of_orientation() -> None:
    # Always the same text at the same place, so that Python shows it once; worker processes inherit that it was shown.
    warnings.warn(
        "an image has an EXIF tag that turns it, and is read as it is stored: LLaVA, whose rules this checkpoint "
        "follows, ignores the tag. Turn the file's pixels if the model should see it upright (docs/checkpoints.md)",
        stacklevel=1,
    )
