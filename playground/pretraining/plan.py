"""The plan of a language model's training: what is taught for how many steps, and how fast it is learned."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Literal, get_args

Lesson = Literal["captions", "questions", "hard", "talks"]
"""Few phrases and captions; few phrases and questions; those that need most steps of thought; whole conversations."""


@dataclass(frozen=True)
class Plan:
    """Rounds of lessons; each round starts with the full learning rate, as in SGDR (arXiv 1608.03983).

    Attributes:
        rounds: The lessons of each round and their steps.
    """

    rounds: tuple[tuple[tuple[Lesson, int], ...], ...]

    @property
    def steps(self) -> int:
        """All of them."""
        return sum(map(_steps_of, self.rounds))

    def lesson(self, step: int) -> Lesson:
        """What a step teaches."""
        for name, count in (lesson for lessons in self.rounds for lesson in lessons):
            if step < count:
                return name
            step -= count
        raise IndexError(f"step {step + self.steps}: the plan has {self.steps}")

    def pace(self, step: int) -> float:
        """The share of the learning rate at a step: up in 100 steps, then down to 2 % along a cosine."""
        for lessons in self.rounds:
            if step < (length := _steps_of(lessons)):
                fade = 0.5 * (1 + math.cos(math.pi * step / length))
                return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * fade)
            step -= length
        raise IndexError(f"step {step + self.steps}: the plan has {self.steps}")


def _steps_of(lessons: tuple[tuple[Lesson, int], ...]) -> int:
    return sum(count for _, count in lessons)


def read_plan(text: str) -> Plan:
    """Reads `captions:1000,questions:500/hard:600,talks:300`: lessons with their steps, rounds between slashes.

    Raises:
        ArgumentTypeError: It is not of that form.
    """
    rounds = []
    for part in text.split("/"):
        lessons = []
        for item in part.split(","):
            name, _, count = item.partition(":")
            if name not in get_args(Lesson) or not count.isdecimal() or not int(count):
                raise argparse.ArgumentTypeError(
                    f"{item!r}: give LESSON:STEPS, of {', '.join(get_args(Lesson))}; lessons are separated by commas, "
                    "rounds by slashes"
                )
            lessons.append((name, int(count)))
        rounds.append(tuple(lessons))
    return Plan(tuple(rounds))
