"""Benchmarks that a judge grades: what the judge is asked, how its reply is read, how grades become scores."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from llava.eval.metrics.averages import mean
from llava.eval.tasks.base import Grades, Sample, Scores, Task
from llava.results.score_parts import ScoreParts, Sums
from llava.results.task_facts import POINTS


class JudgedTask(Task):
    """A benchmark whose answers only a judge can score. A subclass defines `load`, `grading_prompt`, `read_grade`.

    Its scale is points, and its score what the answers earn of what they could earn, in percent.

    Attributes:
        system_prompt: The judge's system prompt; "" for none.
        judge_max_tokens: Limit of its reply's length.
        judge_temperatures: The judge's temperature at each reading; a reply that is no grade is asked for again until
            they are used up.
        retry_suffix: What is put after the question when a reply is no grade.
        unread_grade: What counts where none of the replies was a grade; None counts nothing.
    """

    main_score = "score"
    scale = POINTS
    is_judged = True
    system_prompt: ClassVar[str] = ""
    judge_max_tokens: ClassVar[int] = 1024
    judge_temperatures: ClassVar[tuple[float, ...]] = (0, 0, 0)
    retry_suffix: ClassVar[str] = ""
    unread_grade: ClassVar[Any | None] = None

    @abstractmethod
    def grading_prompt(self, sample: Sample, text: str) -> str:
        """What the judge is asked about an answer."""

    @abstractmethod
    def read_grade(self, reply: str) -> Any | None:
        """The grade in a judge's reply, as JSON values, or None if there is none."""

    def is_on_scale(self, grade: Any) -> bool:
        """Whether a grade that was read is one that the judge was asked for; the others enter no `strict_score`."""
        return True

    def grade_sums(self, grade: Any) -> tuple[float, float]:
        """What a grade earns, and what it could: for a number between 0 and 1, the number and 1."""
        return float(grade), 1.0

    def score_grades(self, samples: Sequence[Sample], grades: Grades) -> Scores:
        """Scores of a graded run.

        Args:
            samples: The samples.
            grades: What `read_grade` made of each sample's replies.

        Raises:
            ValueError: There are no samples or no grades.
        """
        return {self.main_score: self.parts(samples, {}, grades).total}

    def parts(self, samples: Sequence[Sample], texts: Mapping[str, str], grades: Grades | None = None) -> ScoreParts:
        """The mean over the judge's runs of what was earned over what could be; a missing grade counts in neither.

        Raises:
            ValueError: There are no samples or no grades.
        """
        listed = [(grades or {}).get(sample.sample_id, ()) for sample in samples]
        runs = max(map(len, listed), default=0)
        if samples and not runs:
            raise ValueError("there are no grades; run python -m llava.eval.judge")

        def sums_of(own: Sequence[Any | None]) -> list[float]:
            padded = [*own, *[None] * (runs - len(own))]
            return [value for grade in padded for value in ((0.0, 0.0) if grade is None else self.grade_sums(grade))]

        def score(sums: Sums) -> Sums:
            return np.asarray(100 / self.facts().factor * (sums[:, 0::2] / sums[:, 1::2]).mean(axis=1))

        return ScoreParts.collect([sample.image_names for sample in samples], map(sums_of, listed), score)

    def earned(
        self, samples: Sequence[Sample], texts: Mapping[str, str], grades: Grades | None = None
    ) -> dict[str, float]:
        """The mean of what the judge's runs gave; not a number where none gave any."""
        by_sample = {s.sample_id: (grades or {}).get(s.sample_id, ()) for s in samples}
        known = {key: [self.grade_sums(g)[0] for g in listed if g is not None] for key, listed in by_sample.items()}
        return {key: mean(values) if values else math.nan for key, values in known.items()}

    def parse(self, text: str) -> str:
        """The text itself."""
        return text

    def is_correct(self, sample: Sample, text: str) -> float:
        """Not a number: only a judge can score it."""
        return math.nan

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Nothing: only a judge can score it."""
        return {}
