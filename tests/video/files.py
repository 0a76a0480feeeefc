"""Small video files, written by PyAV: frame i is grey of level 10 * i, its top left quarter white."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 48, 32
CODECS = {
    ".mp4": ("mpeg4", "yuv420p"),
    ".mov": ("mpeg4", "yuv420p"),
    ".avi": ("mpeg4", "yuv420p"),
    ".mkv": ("mpeg4", "yuv420p"),
    ".webm": ("libvpx", "yuv420p"),
    ".gif": ("gif", "rgb8"),
}


def picture(number: int) -> np.ndarray:
    frame = np.full((HEIGHT, WIDTH, 3), 10 * number, np.uint8)
    frame[: HEIGHT // 2, : WIDTH // 2] = 255
    return frame


def write_video(
    path: Path,
    count: int = 10,
    *,
    rotation: float | None = None,
    times: Sequence[int] | None = None,
    sound: bool = False,
) -> Path:
    """Writes frames 0 .. count - 1; `times` are their moments in hundredths of a second."""
    codec, pixels = CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if sound:
            write_silence(container)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 100)
                stream.codec_context.time_base = Fraction(1, 100)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_silence(container) -> None:
    """A second of silence in a container that is being written."""
    stream = container.add_stream("aac" if container.format.name == "mp4" else "pcm_s16le", rate=8000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 8000
    for packet in [*stream.encode(frame), *stream.encode()]:
        container.mux(packet)


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        write_silence(container)
    return path


def write_song(path: Path) -> Path:
    """Sound with a cover, which containers hold as a video stream of one picture."""
    with av.open(str(path), "w") as container:
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        write_silence(container)
        frame = av.VideoFrame.from_ndarray(picture(20), format="rgb24")
        for packet in [*cover.encode(frame), *cover.encode()]:
            container.mux(packet)
    return path
