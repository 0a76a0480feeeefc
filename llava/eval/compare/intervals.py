"""How sure a comparison is: all methods of a benchmark see the same draws of its images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from llava.eval.compare.table import Comparison, Entry, Figure
from llava.eval.data_place import DataPlace
from llava.eval.report.intervals import column_parts
from llava.results.bootstrap import percentile_interval, resampled_sums
from llava.results.score_parts import ScoreParts

Draws = NDArray[np.float64]


def add_intervals(comparison: Comparison, data: DataPlace, resamples: int = 2_000) -> None:
    """Puts 95 % intervals into retention, into differences to VisionZip, and into the means of both over tasks.

    A draw takes a benchmark's images with replacement, the same for every method, so that each interval is a paired
    one. Benchmarks are drawn independently of each other.

    Args:
        comparison: Whose figures get intervals; a note where there can be none.
        data: Where the benchmarks' files are.
        resamples: How often to draw; 0 never.
    """
    if not resamples:
        return
    table, entries = comparison.table, comparison.entries
    draws: dict[str, dict[int, Draws]] = {}
    for number, column in enumerate(tqdm(table.columns, desc="intervals", unit="task", disable=None)):
        parts = column_parts(table, column, data)
        if parts:
            draws[column.task] = retention_draws(parts, resamples, seed=number)
    for place, entry in enumerate(entries):
        other = comparison.reference(entry)
        against = entries.index(other) if other is not None and other is not entry else None
        for task, of_task in draws.items():
            if place in of_task and place:
                cell = entry.line.cells[task]
                cell.low, cell.high = _ends(of_task[place])
            if task in entry.against and place in of_task and against in of_task:
                entry.against[task] = _with_ends(entry.against[task], of_task[place] - of_task[against])
        _add_means(entry, place, against, draws, table.tasks)


def _add_means(
    entry: Entry, place: int, against: int | None, draws: Mapping[str, Mapping[int, Draws]], tasks: list[str]
) -> None:
    own = _mean(draws.get(task, {}).get(place) for task in tasks)
    if own is None or not place:
        return
    if entry.mean is not None:
        entry.mean = _with_ends(entry.mean, own)
    theirs = None if against is None else _mean(draws.get(task, {}).get(against) for task in tasks)
    if entry.mean_against is not None and theirs is not None:
        entry.mean_against = _with_ends(entry.mean_against, own - theirs)


def retention_draws(parts: Mapping[int, ScoreParts], resamples: int, seed: int) -> dict[int, Draws]:
    """Retention in percent over R draws, all lines seeing the same ones, by the place of the line; vanilla's is 0.

    Args:
        parts: Scores of one benchmark, by the place of the line.
        resamples: R.
        seed: Of the draws.
    """
    alike = {place: own for place, own in parts.items() if own.groups == parts[0].groups}
    sums = resampled_sums(
        np.concatenate([own.values for own in alike.values()], axis=1), resamples=resamples, seed=seed
    )
    ends = np.cumsum([own.values.shape[1] for own in alike.values()])[:-1]
    chunks = dict(zip(alike, np.split(sums, ends, axis=1), strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = {place: np.asarray(own.score(chunks[place])) for place, own in alike.items()}
        base = np.where(scores[0] > 0, scores[0], np.nan)  # of a draw without a right answer there is no share
        return {place: 100 * score / base for place, score in scores.items()}


def _mean(found: Iterable[Draws | None]) -> Draws | None:
    """The mean over tasks, draw by draw; None if one of them has no draws."""
    listed = list(found)
    given = [each for each in listed if each is not None]
    return np.mean(given, axis=0) if given and len(given) == len(listed) else None


def _ends(values: Draws) -> tuple[float | None, float | None]:
    low, high = percentile_interval(values)
    return (low, high) if np.isfinite(low) and np.isfinite(high) else (None, None)


def _with_ends(figure: Figure, values: Draws) -> Figure:
    return Figure(figure.value, *_ends(values))
