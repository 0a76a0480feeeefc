"""One door for every kind of video: a file, its bytes, a folder of frames, an array or a list of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.images.decoding import ImageDecodeError, check_size, load_image, to_rgb
from llava.images.download import is_url
from llava.images.folders import IMAGE_TYPES
from llava.plain_files import NotAFileError, check_is_file, expanded
from llava.video.clip import Clip, UnreadableVideoError
from llava.video.decoding import check_container, decode_clip
from llava.video.limits import DEFAULT_LIMITS, Limits
from llava.video.sampling import choose_frames
from llava.video.source import VideoSource, fetched, video_name

if TYPE_CHECKING:
    import numpy as np


def read_clip(source: VideoSource, frames: int = 8, rule: str = "linspace", limits: Limits = DEFAULT_LIMITS) -> Clip:
    """Reads the frames of a video that a model sees.

    Frames are counted by decoding, for what a file says of their number may be wrong or missing. A variable rate
    changes nothing: frames count, not seconds. Frames are turned upright as the file says.

    Args:
        source: A video file (mp4, avi, mov, mkv, webm, GIF), its bytes or its URL; a folder of frames, read in the
            order of the numbers in their names; a uint8 array (T, H, W, 3); or a list of PIL images.
        frames: How many; a video that has fewer repeats some.
        rule: Which ones; see `FrameRule`.
        limits: Bounds.

    Returns:
        The frames, and their numbers.

    Raises:
        UnreadableVideoError: It cannot be read, has no frame, or is beyond a bound; the message names it.
    """
    name = video_name(source)
    if is_url(source):
        source = fetched(source)
    if isinstance(source, str | Path):
        path = _path(source, name)
        if path.is_dir():
            return _from_folder(path, name, frames, rule, limits)
        _check_file(path, name)
        source = path
    if isinstance(source, Path | bytes):
        return decode_clip(source, name, frames, rule, limits)
    if isinstance(source, list | tuple):
        return _from_pictures(source, name, frames, rule, limits)
    return _from_array(source, name, frames, rule, limits)


def check_video(source: VideoSource) -> None:
    """Looks whether there is a video, without decoding it; a URL is not asked.

    Args:
        source: As for `read_clip`.

    Raises:
        UnreadableVideoError: There is none; the message names it.
    """
    name = video_name(source)
    if is_url(source):
        return
    if isinstance(source, str | Path):
        path = _path(source, name)
        if path.is_dir():
            _frame_files(path, name)
            return
        _check_file(path, name)
        source = path
    if isinstance(source, Path | bytes):
        check_container(source, name)


def _path(source: str | Path, name: str) -> Path:
    """Where a video is; an empty name is not the folder that happens to be the current one."""
    if source == "":
        raise UnreadableVideoError(f"cannot read video {name}: it has no name")
    return expanded(source)


def _check_file(path: Path, name: str) -> None:
    try:
        check_is_file(path)
    except NotAFileError:
        raise UnreadableVideoError(f"cannot read video {name}: a pipe, a socket or a device, not a file") from None
    except OSError as error:
        raise UnreadableVideoError(f"cannot read video {name}: {error.strerror or error}") from error


def _check_count(count: int, name: str, limits: Limits) -> None:
    if count < 1:
        raise UnreadableVideoError(f"cannot read video {name}: it has no frames")
    if count > limits.frames:
        raise UnreadableVideoError(
            f"cannot read video {name}: it has {count} frames, more than the limit of {limits.frames}; cut it"
        )


def _from_folder(folder: Path, name: str, frames: int, rule: str, limits: Limits) -> Clip:
    files = _frame_files(folder, name)
    _check_count(len(files), name, limits)
    indices = choose_frames(len(files), frames, rule)
    try:
        opened = {index: load_image(files[index], limits.pixels) for index in sorted(set(indices))}
    except (OSError, ImageDecodeError) as error:
        raise UnreadableVideoError(f"cannot read video {name}: {error}") from error
    return _stacked(opened, indices, len(files), name)


def _frame_files(folder: Path, name: str) -> list[Path]:
    """The pictures of a folder in the order of the numbers in their names, 2 before 10."""
    try:
        files = sorted((file for file in folder.iterdir() if file.suffix.lower() in IMAGE_TYPES), key=_by_number)
    except OSError as error:
        raise UnreadableVideoError(f"cannot read video {name}: {error.strerror or error}") from error
    if not files:
        raise UnreadableVideoError(
            f"cannot read video {name}: the folder has no frames ({', '.join(sorted(IMAGE_TYPES))})"
        )
    return files


def _by_number(file: Path) -> list[tuple[int, str]]:
    """A name in pieces, so that numbers in it count as numbers."""
    pieces, digits = [], ""
    for character in f"{file.name}\0":
        if character.isascii() and character.isdigit():
            digits += character
            continue
        if digits:
            pieces.append((int(digits), ""))
        pieces.append((-1, character))
        digits = ""
    return pieces


def _from_pictures(pictures: Any, name: str, frames: int, rule: str, limits: Limits) -> Clip:
    from PIL.Image import Image

    for number, picture in enumerate(pictures):
        if not isinstance(picture, Image):
            raise UnreadableVideoError(
                f"cannot read video {name}: frame {number} is a {type(picture).__name__}; give PIL images, or one "
                "uint8 array of shape (frames, height, width, 3)"
            )
    _check_count(len(pictures), name, limits)
    indices = choose_frames(len(pictures), frames, rule)
    opened = {}
    for index in sorted(set(indices)):
        try:
            check_size(pictures[index].size, f"frame {index}", limits.pixels)
        except ImageDecodeError as error:
            raise UnreadableVideoError(f"cannot read video {name}: {error}") from error
        opened[index] = to_rgb(pictures[index])
    return _stacked(opened, indices, len(pictures), name)


def _stacked(opened: dict[int, Any], indices: tuple[int, ...], count: int, name: str) -> Clip:
    import numpy as np

    sizes = {index: picture.size for index, picture in opened.items()}
    first = indices[0]
    other = next((index for index, size in sizes.items() if size != sizes[first]), None)
    if other is not None:
        raise UnreadableVideoError(
            f"cannot read video {name}: frame {other} is {sizes[other][0]}x{sizes[other][1]} pixels and frame {first} "
            f"is {sizes[first][0]}x{sizes[first][1]}; the frames of a video have one size"
        )
    return Clip(np.stack([np.asarray(opened[index]) for index in indices]), indices, count, name)


def _from_array(array: Any, name: str, frames: int, rule: str, limits: Limits) -> Clip:
    import numpy as np

    try:
        values: np.ndarray = np.asarray(array)
    except Exception as error:  # a tensor on a device, or what is no array at all
        raise UnreadableVideoError(f"cannot read video {name}: {error}") from error
    if values.dtype != np.uint8 or values.ndim != 4 or values.shape[3] != 3:
        raise UnreadableVideoError(
            f"cannot read video {name}: it is an array of {values.dtype}, shape {values.shape}, and must be uint8 of "
            "shape (frames, height, width, 3)"
        )
    _check_count(len(values), name, limits)
    if values[0].size == 0 or values.shape[1] * values.shape[2] > limits.pixels:
        raise UnreadableVideoError(
            f"cannot read video {name}: its frames are {values.shape[2]}x{values.shape[1]} pixels, and may have 1 to "
            f"{limits.pixels}"
        )
    indices = choose_frames(len(values), frames, rule)
    return Clip(values[list(indices)], indices, len(values), name)
