"""Where a video comes from."""

from __future__ import annotations

from os import fspath
from pathlib import Path
from typing import Any, TypeAlias

from llava.images.decoding import source_name

VideoSource: TypeAlias = Any
"""A video file by its path or its bytes, a folder of frames, a uint8 array (T, H, W, 3), or a list of PIL images."""


def video_name(source: VideoSource) -> str:
    """What a video is called in messages."""
    if isinstance(source, bytes | str | Path):
        return source_name(source if isinstance(source, bytes) else fspath(source))
    return f"(a {type(source).__name__} of frames)"
