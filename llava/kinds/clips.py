"""How the models of a family see videos."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class ClipRules:
    """What is known of a family's videos.

    Attributes:
        frames: How many frames of a video it sees, where nobody says.
        rule: Which frames, as `llava.video.FrameRule` names it.
        is_fixed: Whether it sees no other number of frames.
        marks_frames: Whether each frame has an `<image>` of its own in the prompt; else one stands for the whole video.
    """

    frames: int
    rule: str = "linspace"
    is_fixed: bool = False
    marks_frames: bool = False

    def of_config(self, config: Any) -> ClipRules:
        """The rules of one model, whose video tower may have another number of frames."""
        frames = getattr(getattr(config, "video_config", None), "num_frames", None)
        return self if frames is None else replace(self, frames=int(frames))

    def num_frames(self, asked: int | None) -> int:
        """How many frames of a video the model sees.

        Args:
            asked: A number, or None.

        Raises:
            ValueError: The model sees another number only.
        """
        if self.is_fixed and asked not in (None, self.frames):
            raise ValueError(
                f"{asked} frames of a video are asked for, and this model sees {self.frames}, no other number"
            )
        return self.frames if asked is None else asked

    def placeholders(self, num_frames: int) -> int:
        """How many `<image>` a video of so many frames has in the prompt."""
        return num_frames if self.marks_frames else 1
