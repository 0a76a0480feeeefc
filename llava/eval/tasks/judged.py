"""Benchmarks that a judge grades: what the judge is asked, how its reply is read, how grades become scores."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from llava.eval.tasks.base import Sample, Scores, Task


class JudgedTask(Task):
    """A benchmark whose answers only a judge can score.

    Attributes:
        system_prompt: What the judge is told first; "" for nothing.
        judge_max_tokens: Limit of its reply's length.
        retry_suffix: What is put after the question when a reply is no grade.
    """

    system_prompt: ClassVar[str] = ""
    judge_max_tokens: ClassVar[int] = 1024
    retry_suffix: ClassVar[str] = ""

    @abstractmethod
    def grading_prompt(self, sample: Sample, text: str) -> str:
        """What the judge is asked about an answer."""

    @abstractmethod
    def read_grade(self, reply: str) -> Any | None:
        """The grade in a judge's reply, as JSON values, or None if there is none."""

    @abstractmethod
    def score_grades(self, samples: Sequence[Sample], grades: Mapping[str, Sequence[Any | None]]) -> Scores:
        """Scores of a graded run.

        Args:
            samples: The samples.
            grades: What `read_grade` made of each sample's replies, one a run of the judge; None where it failed.
        """

    def parse(self, text: str) -> str:
        """The text itself."""
        return text

    def is_correct(self, sample: Sample, text: str) -> float:
        """Not a number: only a judge can tell."""
        return math.nan

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Nothing: only a judge can tell."""
        return {}
