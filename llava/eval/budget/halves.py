"""What every budget keeps on all pictures, and on each of two halves of them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from llava.eval.compare.intervals import retention_draws
from llava.eval.compare.table import Comparison, Entry, Figure
from llava.eval.data_place import DataPlace
from llava.eval.report.intervals import column_parts
from llava.results.bootstrap import percentile_interval
from llava.results.score_parts import ScoreParts

_NOTHING_RIGHT = "with all tokens no answer is right, so there is nothing to keep"

Parts = Mapping[str, Mapping[int, ScoreParts]]
"""Scores taken apart, by task and by the place of the line."""


@dataclass(frozen=True)
class Rung:
    """A budget of the ladder.

    Attributes:
        entry: Its tokens and costs; the budget is None for all tokens.
        whole: Mean retention over all pictures, in percent of all tokens, with a 95 % interval.
        chosen_on: The same over the half that budgets are chosen on.
        confirmed_on: The same over the other half.
    """

    entry: Entry
    whole: Figure
    chosen_on: Figure
    confirmed_on: Figure

    @property
    def name(self) -> str:
        """The budget in its short form."""
        return self.entry.line.compression

    @property
    def tokens(self) -> float:
        """Visual tokens of an image."""
        return self.entry.line.tokens

    @property
    def milliseconds(self) -> float | None:
        """From the image to the first token at batch 1; None where it was not measured."""
        return self.entry.costs.first_token_ms


@dataclass(frozen=True)
class Ladder:
    """All budgets over the same questions.

    Attributes:
        rungs: All tokens first.
        pictures: How many the halves have; of several tasks those of the task with the fewest.
        telling: On how many of these all tokens earn something, counted in the same way. Where they earn nothing,
            nothing can be lost.
    """

    rungs: list[Rung]
    pictures: tuple[int, int]
    telling: tuple[int, int]


def climb(comparison: Comparison, data: DataPlace, resamples: int) -> Ladder:
    """Works out what each budget keeps, by a paired bootstrap over pictures.

    Args:
        comparison: The budgets; its first entry is all tokens.
        data: Where the tasks' files are.
        resamples: Draws of each interval.

    Raises:
        ValueError: No budget is answered or one lacks the score of a task, or with all tokens nothing is right on one
            of the halves.
    """
    if len(comparison.entries) == 1:
        raise ValueError(f"there is nothing to choose from: {'; '.join(comparison.notes)}")
    parts = _parts(comparison, data)
    halves = split_pictures({task: own[0].groups for task, own in parts.items()})
    everything = halves[0] | halves[1]
    found = [_figures(_only(parts, half), len(comparison.entries), resamples) for half in (everything, *halves)]
    rungs = [Rung(entry, *(figures[place] for figures in found)) for place, entry in enumerate(comparison.entries)]
    pictures = [own[0].groups for own in parts.values()]
    return Ladder(rungs, _fewest(halves, pictures), _fewest(halves, [own[0].telling for own in parts.values()]))


def split_pictures(pictures: Mapping[str, Collection[str]]) -> tuple[frozenset[str], frozenset[str]]:
    """Two halves of the pictures: the same for every task, budget and run, and whatever folder they are in.

    Args:
        pictures: Names of each task's pictures, those of a question about several under each other.

    Returns:
        Names; of each task the halves have as many, give or take a picture.
    """
    tasks: dict[str, list[str]] = {}
    for task, names in sorted(pictures.items()):
        for name in names:
            tasks.setdefault(name, []).append(task)

    def drawn(name: str) -> tuple[list[str], str, str]:
        files = "\n".join(PurePath(line).name for line in name.split("\n"))
        return tasks[name], hashlib.sha256(files.encode()).hexdigest(), name

    ordered = sorted(tasks, key=drawn)
    return frozenset(ordered[::2]), frozenset(ordered[1::2])


def _fewest(halves: Sequence[frozenset[str]], pictures: Sequence[Collection[str]]) -> tuple[int, int]:
    first, second = (min(len(half.intersection(own)) for own in pictures) for half in halves)
    return first, second


def _parts(comparison: Comparison, data: DataPlace) -> Parts:
    """The scores of all tasks and budgets taken apart."""
    table = comparison.table
    parts = {}
    for column in table.columns:
        base = table.vanilla.cells.get(column.task)
        if base is not None and not base.score > 0:
            raise ValueError(f"{column.heading}: {_NOTHING_RIGHT}")
        found = column_parts(table, column, data)
        lacking = [entry.label for place, entry in enumerate(comparison.entries) if place not in found]
        if lacking:
            said = "; ".join(table.notes) or "run the command again"
            raise ValueError(f"{column.heading}: there is no retention of {', '.join(lacking)}: {said}")
        parts[column.task] = found
    if not parts:
        raise ValueError("no task has a score of its own to choose by; a judged task is not for this command")
    return parts


def _only(parts: Parts, pictures: Container[str]) -> Parts:
    return {task: {place: own.only(pictures) for place, own in of_task.items()} for task, of_task in parts.items()}


def _figures(parts: Parts, entries: int, resamples: int) -> list[Figure]:
    """Mean retention over the tasks on some pictures, by the place of the line."""
    for task, own in parts.items():
        if not own[0].groups:
            raise ValueError(f"{task}: there is one picture, and two halves are needed")
        if not own[0].total > 0:
            raise ValueError(f"{task}, half of the pictures: {_NOTHING_RIGHT}")
    draws = [retention_draws(own, resamples, seed=number) for number, own in enumerate(parts.values())]
    figures = [Figure(100.0, 100.0, 100.0)]
    for place in range(1, entries):
        value = float(np.mean([100 * own[place].total / own[0].total for own in parts.values()]))
        low, high = percentile_interval(np.mean([own[place] for own in draws], axis=0))
        figures.append(Figure(value, low, high))
    return figures
