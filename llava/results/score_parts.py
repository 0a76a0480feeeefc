"""A score as a function of sums over questions, so that it can be bootstrapped.

Questions that are not independent form a group and are drawn together: those about one image, and MMBench's rotations
of one question.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class ScoreParts:
    """A score taken apart.

    Attributes:
        groups: Names of the groups, sorted; G of them.
        values: (G, V), what each group adds to V sums.
        score: Maps sums (R, V) to R scores, on the scale of the task's main score.
    """

    groups: tuple[str, ...]
    values: Sums
    score: Callable[[Sums], Sums]

    @property
    def total(self) -> float:
        """The score of all questions."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(self.score(self.values.sum(axis=0, keepdims=True))[0])

    @property
    def telling(self) -> tuple[str, ...]:
        """Groups on which something can be lost: whose own score is not 0, be it that it has none by itself.

        With `fewest_groups` of `llava.results.bootstrap` this says how much can be told of what is kept.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = self.score(self.values)
        return tuple(name for name, score in zip(self.groups, scores, strict=True) if score != 0)

    def only(self, groups: Container[str]) -> ScoreParts:
        """The same score over some of the groups; the others are left out."""
        kept = [number for number, name in enumerate(self.groups) if name in groups]
        return ScoreParts(tuple(self.groups[number] for number in kept), self.values[kept], self.score)

    @classmethod
    def collect(
        cls, groups: Sequence[str], rows: Iterable[Sequence[float]], score: Callable[[Sums], Sums]
    ) -> ScoreParts:
        """Adds up what the questions of each group add.

        Args:
            groups: The group of each question.
            rows: What each question adds to the V sums.
            score: Maps sums (R, V) to R scores.

        Raises:
            ValueError: There is no question.
        """
        if not groups:
            raise ValueError("there is no question to score")
        values = np.array(list(rows), dtype=np.float64)
        names, member = np.unique(list(groups), return_inverse=True)
        sums = np.zeros((len(names), values.shape[1]))
        np.add.at(sums, member.reshape(-1), values)
        return cls(tuple(names.tolist()), sums, score)


def mean_of_sums(sums: Sums) -> Sums:
    """The score of a mean, from sums (R, 2) of what was earned and of how many questions there are."""
    return sums[:, 0] / sums[:, 1]


def mean_of(parts: Sequence[ScoreParts]) -> ScoreParts:
    """The mean of the scores of several runs over the same questions.

    Raises:
        ValueError: They are not over the same questions.
    """
    if any(own.groups != parts[0].groups for own in parts):
        raise ValueError("the runs are not over the same questions")
    ends = np.cumsum([own.values.shape[1] for own in parts])[:-1]

    def score(sums: Sums) -> Sums:
        chunks = np.split(sums, ends, axis=1)
        return np.asarray(np.mean([own.score(chunk) for own, chunk in zip(parts, chunks, strict=True)], axis=0))

    return ScoreParts(parts[0].groups, np.concatenate([own.values for own in parts], axis=1), score)
