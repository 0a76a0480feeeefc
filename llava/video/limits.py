"""Bounds of what is decoded of a video."""

from __future__ import annotations

from dataclasses import dataclass

from llava.constants import DEFAULT_MAX_PIXELS


@dataclass(frozen=True)
class Limits:
    """Bounds.

    Attributes:
        pixels: Of one frame.
        frames: Of the whole video; at 30 a second the default is two hours.
        seconds: Of one pass over it, by the clock.
    """

    pixels: int = DEFAULT_MAX_PIXELS
    frames: int = 216_000
    seconds: float = 600.0


DEFAULT_LIMITS = Limits()
