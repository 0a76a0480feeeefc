"""Video files, decoded by PyAV. The file is handed over opened, so that no name in it makes FFmpeg open another one."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.utils import shown
from llava.video.clip import Clip, UnreadableVideoError
from llava.video.limits import Limits
from llava.video.sampling import choose_frames

if TYPE_CHECKING:
    import numpy as np

# FFmpeg's names. Others are playlists and devices, which read further files, or hold no video.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,gif"
_ADVICE = "give mp4, avi, mov, mkv, webm or GIF"


def decode_clip(source: Path | bytes, name: str, frames: int, rule: str, limits: Limits) -> Clip:
    """The chosen frames of a file; arguments and errors as for `read_clip`.

    One pass suffices where the file says its number of frames rightly; else a first pass counts them.
    """
    with _opened(source, name) as container:
        announced = int(_picture(container).frames)
        wanted = choose_frames(announced, frames, rule) if 1 <= announced <= limits.frames else ()
        count, kept = _pass(container, name, wanted, limits)
    indices = choose_frames(count, frames, rule)
    if indices != wanted:
        with _opened(source, name) as container:
            _, kept = _pass(container, name, indices, limits, to_end=False)
    import numpy as np

    return Clip(np.stack([kept[index] for index in indices]), indices, count, name)


def check_container(source: Path | bytes, name: str) -> None:
    """Looks whether a file has a video; errors as for `read_clip`."""
    with _opened(source, name):
        pass


def _pass(
    container: Any, name: str, wanted: Sequence[int], limits: Limits, *, to_end: bool = True
) -> tuple[int, dict[int, np.ndarray]]:
    """Decodes a file; how many frames it has, and those that are wanted as (H, W, 3) by number."""
    stream = _picture(container)
    stream.thread_type = "AUTO"
    keep, kept, count = set(wanted), {}, 0
    size: tuple[int, int] | None = None
    end = time.monotonic() + limits.seconds
    for frame in container.decode(stream):
        if keep and count > max(keep) and not to_end:
            break
        if count >= limits.frames:
            raise UnreadableVideoError(
                f"cannot read video {name}: it has more frames than the limit of {limits.frames}; cut it into parts"
            )
        if time.monotonic() > end:
            raise UnreadableVideoError(
                f"cannot read video {name}: {count} frames are decoded after {limits.seconds:g} seconds, which is the "
                "limit; cut it into parts"
            )
        if frame.width * frame.height > limits.pixels:
            raise UnreadableVideoError(
                f"cannot read video {name}: {frame.width}x{frame.height} pixels a frame are more than the limit of "
                f"{limits.pixels}"
            )
        if count in keep:
            if size is not None and size != (frame.width, frame.height):
                raise UnreadableVideoError(
                    f"cannot read video {name}: frame {count} is {frame.width}x{frame.height} pixels, and those before "
                    f"are {size[0]}x{size[1]}; the frames of a video have one size"
                )
            size = frame.width, frame.height
            kept[count] = _upright(frame.to_ndarray(format="rgb24"), frame.rotation)
        count += 1
    if not count:
        raise UnreadableVideoError(f"cannot read video {name}: no frame of it can be decoded; is it damaged or empty?")
    return count, kept


def _upright(picture: np.ndarray, rotation: int) -> np.ndarray:
    """Turns a frame by the quarter turns, counterclockwise, that its file says."""
    import numpy as np

    turns = round(rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[Any]:
    """The container of a file with a video; what its reading raises, now and later, becomes an error that names it."""
    av = _pyav(name)
    try:
        stream = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    except OSError as error:
        raise UnreadableVideoError(f"cannot read video {name}: {error.strerror or error}") from error
    try:
        with stream, av.open(stream, options={"format_whitelist": _FORMATS}) as container:
            if _picture(container) is None:
                kinds = ", ".join(sorted({_kind(each) for each in container.streams}))
                only = f"only {kinds}" if kinds else "and no sound either; is it cut off?"
                raise UnreadableVideoError(f"cannot read video {name}: it has no video, {only}")
            yield container
    except UnreadableVideoError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:  # also of seeking in too short a file
        reason = shown(getattr(error, "strerror", None) or str(error))
        raise UnreadableVideoError(
            f"cannot read video {name}: it cannot be decoded ({reason}); it is damaged, or of another format: {_ADVICE}"
        ) from error


def _picture(container: Any) -> Any:
    """The first video stream of a container; None if it has none, for the cover of a song is no video."""
    return next((stream for stream in container.streams.video if _kind(stream) == "video"), None)


def _kind(stream: Any) -> str:
    return "a cover" if stream.disposition & stream.disposition.attached_pic else str(stream.type)


def _pyav(name: str) -> Any:
    """PyAV, which the extra `video` brings."""
    try:
        import av
    except ImportError as error:
        raise UnreadableVideoError(
            f"cannot read video {name}: PyAV is not installed; pip install 'llava-visionzip[video]', or give a folder "
            "of frames"
        ) from error
    return av


__all__ = ["check_container", "decode_clip"]
