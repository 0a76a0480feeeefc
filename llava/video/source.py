"""Where a video comes from."""

from __future__ import annotations

from os import fspath
from pathlib import Path
from typing import Any, TypeAlias

from llava.images.decoding import UnreadableImageError, source_name
from llava.images.download import Download, download, shown_url
from llava.video.clip import UnreadableVideoError

VideoSource: TypeAlias = Any
"""A video file by its path or its bytes, a folder of frames, a uint8 array (T, H, W, 3), or a list of PIL images."""


def video_name(source: VideoSource) -> str:
    """What a video is called in messages; a URL without user and password."""
    if isinstance(source, bytes | str | Path):
        return shown_url(source_name(source if isinstance(source, bytes) else fspath(source))) or "''"
    return f"(a {type(source).__name__} of frames)"


def fetched(url: str, *, public_only: bool = False) -> Download:
    """The bytes of a video that a URL names; bounds are those of `llava.images.download.download`.

    Args:
        url: Of http or https.
        public_only: As of `download`.

    Raises:
        UnreadableVideoError: It cannot be had; the message names it.
    """
    try:
        return download(url, public_only=public_only, what="video")
    except UnreadableImageError as error:
        raise UnreadableVideoError(str(error)) from None
