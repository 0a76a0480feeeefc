"""A video among the images of a question: read and made pixels of by the rules of the model that is asked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.images.download import is_url
from llava.images.source import FrameSource, PreparedFrames
from llava.images.tile_pixels import tile_pixels
from llava.kinds.families import clip_rules
from llava.video.reader import check_video, read_clip
from llava.video.source import VideoSource, fetched, video_name


@dataclass(frozen=True)
class Video(FrameSource):
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

    def check(self) -> None:
        """Looks whether there is a video; raises UnreadableVideoError."""
        check_video(self.source)

    def num_frames(self, config: Any) -> int:
        """How many frames the model of a config sees.

        Raises:
            ValueError: It sees no videos, or another number of frames than is asked for.
        """
        return clip_rules(config).num_frames(self.frames)

    def prepare(self, image_processor: Any, config: Any) -> PreparedFrames:
        """The frames by the model's rule, as pixels.

        Args:
            image_processor: The model's; one with `clip_pixels` makes the pixels of clips itself.
            config: The model's.

        Raises:
            UnreadableVideoError: It cannot be read.
            ValueError: As `num_frames`.
        """
        clip = read_clip(self.source, self.num_frames(config), clip_rules(config).rule)
        own = getattr(image_processor, "clip_pixels", None)
        pixels = tile_pixels(clip.pictures, image_processor) if own is None else own(clip.frames)
        return PreparedFrames(clip.size, pixels, clip.indices)


def fetch_video(source: VideoSource, frames: int | None = None, *, public_only: bool = False) -> Video:
    """What is at hand of a video before there is a model: a URL is downloaded, and its container is opened.

    Args:
        source: See `VideoSource`.
        frames: As of `Video`.
        public_only: As of `llava.images.download.download`.

    Raises:
        UnreadableVideoError: There is none; the message names it.
        ValueError: The number of frames is less than 1.
    """
    video = Video(fetched(source, public_only=public_only) if is_url(source) else source, frames)
    video.check()
    return video


__all__ = ["Video", "fetch_video"]
