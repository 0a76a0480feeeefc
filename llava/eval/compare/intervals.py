"""How sure a comparison is: all methods of a benchmark see the same draws of its images."""

from __future__ import annotations

from collections.abc import Mapping

from tqdm import tqdm

from llava.eval.compare.table import Comparison, Entry, Figure
from llava.eval.data_place import DataPlace
from llava.eval.report.intervals import Draws, column_parts, ends_of, mean_of_draws, retention_draws


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
                cell.low, cell.high = ends_of(of_task[place])
            if task in entry.against and place in of_task and against in of_task:
                entry.against[task] = _with_ends(entry.against[task], of_task[place] - of_task[against])
        _add_means(entry, place, against, draws, table.tasks)


def _add_means(
    entry: Entry, place: int, against: int | None, draws: Mapping[str, Mapping[int, Draws]], tasks: list[str]
) -> None:
    own = mean_of_draws(draws.get(task, {}).get(place) for task in tasks)
    if own is None or not place:
        return
    if entry.mean is not None:
        entry.mean = _with_ends(entry.mean, own)
    theirs = None if against is None else mean_of_draws(draws.get(task, {}).get(against) for task in tasks)
    if entry.mean_against is not None and theirs is not None:
        entry.mean_against = _with_ends(entry.mean_against, own - theirs)


def _with_ends(figure: Figure, values: Draws) -> Figure:
    return Figure(figure.value, *ends_of(values))
