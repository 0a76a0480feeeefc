"""Where a video comes from, and how it stands among the images of a question."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import Any, TypeAlias

from llava.images.decoding import source_name

VideoSource: TypeAlias = Any
"""A video file by its path or its bytes, a folder of frames, a uint8 array (T, H, W, 3), or a list of PIL images."""


@dataclass(frozen=True)
class Video:
    """A video among the images of a question: `Question("What happens?", (Video("clip.mp4"),))`.

    Attributes:
        source: See `VideoSource`.
        frames: How many frames the model sees; None for as many as its family does.
    """

    source: VideoSource
    frames: int | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and (isinstance(self.frames, bool) or not isinstance(self.frames, int)):
            raise TypeError(f"a video's frames are a whole number or None, got {self.frames!r}")
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"a video's frames must be at least 1, got {self.frames}")

    @property
    def name(self) -> str:
        """What messages call it."""
        return video_name(self.source)

    @property
    def key(self) -> str:
        """A name by which the same frames of one video are recognised within a call."""
        if isinstance(self.source, bytes):
            named = f"bytes:{hashlib.sha256(self.source).hexdigest()}"
        elif isinstance(self.source, str | Path):
            named = f"path:{self.source}"
        else:
            named = f"object:{id(self.source)}"
        return f"video:{self.frames}:{named}"


def video_name(source: VideoSource) -> str:
    """What a video is called in messages."""
    if isinstance(source, bytes | str | Path):
        return source_name(source if isinstance(source, bytes) else fspath(source))
    return f"(a {type(source).__name__} of frames)"
