"""The frames of a video that a model is to see, and the error of one that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llava.images.decoding import UnreadableImageError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


class UnreadableVideoError(UnreadableImageError):
    """A video cannot be read; the message names it."""


@dataclass(frozen=True)
class Clip:
    """T frames of one video, upright, in the order of time.

    Attributes:
        frames: (T, H, W, 3), uint8, RGB.
        indices: The number of each frame in the video, from 0; a short video repeats some.
        num_frames: How many frames the video has, counted.
        name: What messages call it.
    """

    frames: np.ndarray
    indices: tuple[int, ...]
    num_frames: int
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """(w, h) of a frame."""
        return int(self.frames.shape[2]), int(self.frames.shape[1])

    @property
    def pictures(self) -> list[Image]:
        """The frames as PIL images."""
        from PIL import Image

        return [Image.fromarray(frame) for frame in self.frames]
