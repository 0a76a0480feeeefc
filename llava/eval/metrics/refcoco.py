"""Referring expressions: the share of boxes that overlap the right one by half (acc@0.5).

**LLaVA's boxes are relative to the padded square.** LLaVA-1.5 sees a picture in the middle of a square of its longer
side, and the boxes in its training data count from that square's edges (haotian-liu/LLaVA, issue 606). So the upper
edge of a 640 x 480 picture is at 0.125, not at 0. lmms-eval reads every model's boxes as if they counted from the
picture's own edges, where a right answer of LLaVA's may overlap with nothing. `accuracy` reads boxes as LLaVA means
them, `plain_accuracy` as lmms-eval does.

The first `[a, b, c, d]` of a text counts, by lmms-eval's `utils_rec.py`; a text without one is wrong. Padding shifts by
whole pixels, rounded down, as LLaVA's `expand2square` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from llava.eval.metrics.averages import mean, mean_by_group, some

THRESHOLD = 0.5
Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom."""

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_BOX = re.compile(rf"\[\s*{_NUMBER},\s*{_NUMBER},\s*{_NUMBER},\s*{_NUMBER}\s*\]")
_SMALL, _LARGE = 32.0**2, 96.0**2  # COCO's bounds, of a box's area in pixels


@dataclass(frozen=True)
class Target:
    """The right box of a question.

    Attributes:
        box: In pixels of the picture.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
    """

    box: Box
    width: int
    height: int

    def in_square(self) -> Box:
        """The box relative to the padded square, as LLaVA writes it."""
        side = max(self.width, self.height)
        right, down = (side - self.width) // 2, (side - self.height) // 2
        x1, y1, x2, y2 = self.box
        return (x1 + right) / side, (y1 + down) / side, (x2 + right) / side, (y2 + down) / side

    def in_picture(self) -> Box:
        """The box relative to the picture itself."""
        x1, y1, x2, y2 = self.box
        return x1 / self.width, y1 / self.height, x2 / self.width, y2 / self.height

    @property
    def size(self) -> str:
        """`small`, `medium` or `large`, by COCO's bounds of 32 and 96 pixels squared."""
        area = (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])
        return "small" if area < _SMALL else "medium" if area < _LARGE else "large"


@dataclass(frozen=True)
class BoxAnswer:
    """A scored question.

    Attributes:
        overlap: Intersection over union with the right box, the box read relative to the padded square.
        plain_overlap: The same, the box read relative to the picture.
        size: Of the object: `small`, `medium` or `large`.
        has_box: Whether the text holds a box.
    """

    overlap: float
    plain_overlap: float
    size: str
    has_box: bool

    @classmethod
    def of(cls, text: str, target: Target) -> BoxAnswer:
        """What a text says, held against the right box."""
        box = parse_box(text)
        if box is None:
            return cls(0.0, 0.0, target.size, False)
        return cls(overlap(target.in_square(), box), overlap(target.in_picture(), box), target.size, True)


def parse_box(text: str) -> Box | None:
    """The first four numbers in square brackets, None if there are none."""
    found = _BOX.search(text)
    if found is None:
        return None
    x1, y1, x2, y2 = map(float, found.groups())
    return x1, y1, x2, y2


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes; 0 if they do not meet, or one of them has no inside."""
    width = max(0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0, min(first[3], second[3]) - max(first[1], second[1]))
    shared = width * height
    return shared / (_area(first) + _area(second) - shared) if shared else 0.0


def refcoco_scores(answers: Iterable[BoxAnswer]) -> dict[str, float | dict[str, float]]:
    """Shares of right boxes.

    Returns:
        `accuracy`, `accuracy_by_size`, `mean_overlap`, `plain_accuracy` and `no_box_ratio`.
    """
    listed = some(answers)
    hits = [float(answer.overlap >= THRESHOLD) for answer in listed]
    return {
        "accuracy": mean(hits),
        "accuracy_by_size": mean_by_group((answer.size, hit) for answer, hit in zip(listed, hits, strict=True)),
        "mean_overlap": mean(answer.overlap for answer in listed),
        "plain_accuracy": mean(float(answer.plain_overlap >= THRESHOLD) for answer in listed),
        "no_box_ratio": mean(float(not answer.has_box) for answer in listed),
    }


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
