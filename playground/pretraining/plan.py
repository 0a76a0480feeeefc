"""The plan of a language model's training: what is taught for how many steps, and how fast it is learned."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Literal, get_args

Lesson = Literal["captions", "questions", "talks"]
"""Few phrases, questions and captions; few phrases and questions; whole conversations."""


@dataclass(frozen=True)
class Plan:
    """Lessons in turn.

    Attributes:
        lessons: What is taught, and for how many steps.
    """

    lessons: tuple[tuple[Lesson, int], ...]

    @property
    def steps(self) -> int:
        """All of them."""
        return sum(count for _, count in self.lessons)

    def lesson(self, step: int) -> Lesson:
        """What a step teaches."""
        for name, count in self.lessons:
            if step < count:
                return name
            step -= count
        raise IndexError(f"step {step + self.steps}: the plan has {self.steps}")

    def pace(self, step: int) -> float:
        """The share of the learning rate at a step: up in 100 steps, then down to 2 % along a cosine."""
        fade = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * fade)


def read_plan(text: str) -> Plan:
    """Reads `captions:900,questions:700,talks:400`.

    Raises:
        ArgumentTypeError: It is not of that form.
    """
    lessons = []
    for item in text.split(","):
        name, _, count = item.partition(":")
        if name not in get_args(Lesson) or not count.isdecimal() or not int(count):
            raise argparse.ArgumentTypeError(f"{item!r}: give LESSON:STEPS, of {', '.join(get_args(Lesson))}")
        lessons.append((name, int(count)))
    return Plan(tuple(lessons))
