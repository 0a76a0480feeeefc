"""Which questions two sets of answers answer differently; what a flip is stands here alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from llava.eval.answer_sets import AnswerSet
from llava.eval.judge.run import read_grades
from llava.eval.tasks import Sample, Task

KINDS = ("lost", "gained", "reworded")
"""Of flips, the most telling first."""

Earned: TypeAlias = Mapping[str, float | None]
"""What each answer earned, by sample id; None is not graded."""


@dataclass(frozen=True)
class Flip:
    """A question that A and B answer differently.

    Attributes:
        sample: The question.
        texts: What A and B said.
        earned: What each earned; None is not graded.
        kind: "lost" (A earned more), "gained" (B did) or "reworded".
    """

    sample: Sample
    texts: tuple[str, str]
    earned: tuple[float | None, float | None]
    kind: str


def earned_by(task: Task, answers: AnswerSet, samples: Sequence[Sample]) -> Earned:
    """What each answer earned; None where the judge of a judged task gave no grade."""
    grades = read_grades(answers.path.parents[2], task.name, answers.path.name) if task.is_judged else None
    earned = task.earned(samples, answers.texts, grades)
    return {key: None if math.isnan(value) else value for key, value in earned.items()}


def answered_by_both(samples: Sequence[Sample], a: AnswerSet, b: AnswerSet) -> list[Sample]:
    """The questions that both sets have an answer to."""
    return [sample for sample in samples if sample.sample_id in a.texts and sample.sample_id in b.texts]


def find_flips(
    both: Sequence[Sample], answers: tuple[AnswerSet, AnswerSet], earned: tuple[Earned, Earned]
) -> list[Flip]:
    """The questions whose two answers differ in words or in what they earn: lost first, then gained, then reworded.

    Args:
        both: Questions that both have answered.
        answers: A and B.
        earned: What their answers earned.
    """
    flips = []
    for sample in both:
        key = sample.sample_id
        texts = answers[0].texts[key], answers[1].texts[key]
        values = earned[0][key], earned[1][key]
        if texts[0] != texts[1] or values[0] != values[1]:
            flips.append(Flip(sample, texts, values, _kind(*values)))
    flips.sort(key=lambda flip: KINDS.index(flip.kind))
    return flips


def _kind(a: float | None, b: float | None) -> str:
    return "reworded" if a is None or b is None or a == b else "lost" if a > b else "gained"
