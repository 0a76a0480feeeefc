"""What the doctor has found: one object that the page, the JSON and the lines in the terminal are made of.

Shares are between 0 and 1. A figure's interval is the 95 % interval of a paired bootstrap over images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava.eval.compare.table import Figure
from llava.eval.report.flips import Flip
from llava.eval.report.table import Column

LEAST_QUESTIONS, LEAST_PICTURES = 20, 10
"""What a slice must have to be named among the findings; of less an interval says little."""


@dataclass(frozen=True)
class Slice:
    """Questions that have something in common, before and after.

    Attributes:
        sort: What sorts them: `all`, `type`, `size of the object`, `text in the picture`...
        value: What they have in common.
        n: How many both sides have answered, and a judge has graded where one does.
        lost: Answers that earn less than with all tokens: right before, wrong now.
        gained: Answers that earn more.
        reworded: Other words that earn the same.
        before: What an answer earns on average with all tokens.
        after: The same with the budget.
        change: `after` less `before`.
        pictures: How many pictures they are about.
    """

    sort: str
    value: str
    n: int
    lost: int
    gained: int
    reworded: int
    before: float
    after: float
    change: Figure
    pictures: int

    @property
    def is_large(self) -> bool:
        """Whether there are enough questions and pictures to speak of a change."""
        return self.n >= LEAST_QUESTIONS and self.pictures >= LEAST_PICTURES

    @property
    def same(self) -> int:
        """Answers in the same words."""
        return self.n - self.lost - self.gained - self.reworded


@dataclass(frozen=True)
class Shift:
    """A score of "yes" before and after.

    Attributes:
        name: `precision`, `recall`, `f1` or `yes said`.
        before: With all tokens.
        after: With the budget.
        change: `after` less `before`.
    """

    name: str
    before: float
    after: float
    change: Figure


@dataclass(frozen=True)
class Group:
    """Questions that all tokens get right, by whether down-sampling does too.

    Attributes:
        n: How many.
        right: How many of them the budget gets right.
        share: `right` of `n`; None without any.
    """

    n: int
    right: int
    share: Figure | None


@dataclass(frozen=True)
class DownSampling:
    """What plain down-sampling gets wrong and what it gets right (arXiv 2510.07143: groups A and B).

    Attributes:
        compression: The down-sampling row.
        tokens: Its visual tokens a question.
        hard: All tokens right, down-sampling wrong: what asks for more than a small picture.
        easy: Both right.
    """

    compression: str
    tokens: float
    hard: Group
    easy: Group


@dataclass
class Case:
    """A task under a budget.

    Attributes:
        task: The task's name.
        score: Name of its main score.
        before: The main score with all tokens, as results.json has it.
        after: The same with the budget.
        retention: `after` over `before`.
        whole: All its questions.
        slices: Of questions that have something in common.
        only: How many questions only all tokens and only the budget have answered.
        limit: The number of questions, where they are not all of the task; None if they are.
        telling: On how many pictures all tokens earn something: on the others nothing can be lost.
        in_shares: Whether answers earn between 0 and 1.
        shifts: Of "yes", for tasks that ask yes or no.
        down_sampling: Beside down-sampling to as many tokens; None without.
        flips: Every question whose answer changed.
    """

    task: str
    score: str
    before: float
    after: float
    retention: Figure
    whole: Slice
    slices: list[Slice]
    only: tuple[int, int]
    limit: int | None
    telling: int
    in_shares: bool
    shifts: list[Shift] = field(default_factory=list)
    down_sampling: DownSampling | None = None
    flips: list[Flip] = field(default_factory=list)


@dataclass
class Budget:
    """A budget and what it does to each task.

    Attributes:
        compression: As results.json names it.
        tokens: Visual tokens a question.
        cases: By task.
        mean: Mean retention over the run's tasks, as the report has it; None where one of them lacks.
        missing: Why a task could not be examined, by task.
    """

    compression: str
    tokens: float
    cases: dict[str, Case] = field(default_factory=dict)
    mean: Figure | None = None
    missing: dict[str, str] = field(default_factory=dict)


@dataclass
class Diagnosis:
    """A run, examined.

    Attributes:
        folder: The run.
        run: The `run` entry of its results.json: model, versions...
        tokens: Visual tokens a question without compression.
        columns: How a task stands in tables, by its name.
        mean_tasks: The tasks that the means are over.
        budgets: In the order of results.json.
        advice: Commands that would add what is missing.
        notes: What a reader must know.
    """

    folder: Path
    run: dict[str, Any]
    tokens: float
    columns: dict[str, Column]
    mean_tasks: list[str]
    budgets: list[Budget] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def cases(self) -> Iterator[tuple[Budget, Case]]:
        """All of them, budget by budget."""
        return ((budget, case) for budget in self.budgets for case in budget.cases.values())
