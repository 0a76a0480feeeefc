"""Which frames of a video a model sees: each family's own rule, over frames that are counted."""

from __future__ import annotations

from typing import Literal, get_args

FrameRule = Literal["linspace", "arange"]
"""`linspace`: evenly from the first frame to the last, as Video-LLaVA and LLaVA-NeXT do. `arange`: evenly from the
first to a step before the end, as transformers' examples for Video-LLaVA do."""

FRAME_RULES: tuple[FrameRule, ...] = get_args(FrameRule)


def choose_frames(available: int, wanted: int, rule: str = "linspace") -> tuple[int, ...]:
    """The numbers of the frames to look at, ascending; a video of fewer frames than wanted repeats some.

    Args:
        available: Frames that the video has, at least 1.
        wanted: Frames that the model sees, at least 1.
        rule: See `FrameRule`; fractions are cut off, as numpy does on the way to whole numbers.

    Raises:
        ValueError: A number is less than 1, or the rule is unknown.
    """
    import numpy as np

    if available < 1 or wanted < 1:
        raise ValueError(f"{wanted} frames of a video of {available} cannot be chosen; both must be at least 1")
    if rule == "linspace":
        chosen = np.linspace(0, available - 1, wanted, dtype=int)
    elif rule == "arange":
        chosen = np.arange(0, available, available / wanted)[:wanted].astype(int)
    else:
        raise ValueError(f"frame rule {rule!r} is none of {', '.join(FRAME_RULES)}")
    return tuple(int(index) for index in chosen)
