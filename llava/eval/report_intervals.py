"""How sure each retention of a table is: paired bootstrap intervals from the answers on disk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llava.bootstrap import bootstrap_interval
from llava.eval.answer_sets import find_answers, made_alike
from llava.eval.data_place import DataPlace
from llava.eval.judge_run import read_grades
from llava.eval.report_table import Cell, Column, Line, Table
from llava.eval.score_parts import ScoreParts, Sums, take_apart
from llava.eval.tasks import Sample, Task, TaskDataError, available_tasks, get_task

_TOLERANCE = 0.1  # of the table's scale; LLaVA-Bench's summary is rounded to one decimal


def add_intervals(table: Table, data: DataPlace, resamples: int = 2_000) -> None:
    """Puts intervals into the cells of a table, and a note where there can be none.

    Args:
        table: The table.
        data: Where the benchmarks' files are.
        resamples: How often to draw.
    """
    for column in table.columns:
        if column.task not in available_tasks():
            continue
        task = get_task(column.task)
        base = table.vanilla.cells.get(column.task)
        try:
            samples = data.load(task, base.row.get("data_root") if base else None).samples
        except TaskDataError as error:
            table.notes.append(f"{column.heading}: no intervals, its data are not here ({error})")
            continue
        _add_to_column(table, column, task, samples, resamples)


def _add_to_column(table: Table, column: Column, task: Task, samples: Sequence[Sample], resamples: int) -> None:
    base_cell = table.vanilla.cells.get(column.task)
    if base_cell is None:
        return
    base = _parts(table, column, task, samples, table.vanilla, base_cell)
    for line in table.lines[1:]:
        cell = line.cells.get(column.task)
        if base is None or cell is None or cell.retention is None:
            continue
        own = _parts(table, column, task, samples, line, cell)
        if own is not None:
            cell.low, cell.high = _interval(own, base, resamples)


def _interval(own: ScoreParts, base: ScoreParts, resamples: int) -> tuple[float | None, float | None]:
    """Of the ratio of the two scores in percent, both of the same questions in every draw."""
    width = own.values.shape[1]

    def retention(sums: Sums) -> Sums:
        return np.asarray(100 * own.score(sums[:, :width]) / base.score(sums[:, width:]))

    both = np.concatenate([own.values, base.values], axis=1)
    low, high = bootstrap_interval(both, retention, resamples=resamples)
    return (low, high) if np.isfinite(low) and np.isfinite(high) else (None, None)


def _parts(
    table: Table, column: Column, task: Task, samples: Sequence[Sample], line: Line, cell: Cell
) -> ScoreParts | None:
    """A cell's score taken apart; None, and a note, if what is on disk is not what the cell was scored on."""
    where = f"{line.label}, {column.heading}"
    try:
        answers = next((a for a in find_answers(line.folder, task.name) if made_alike(cell.row, a)), None)
        if answers is None:
            table.notes.append(f"{where}: no interval, its answers are not in {line.folder / 'answers' / task.name}")
            return None
        grades = read_grades(line.folder, task.name, answers.path.name)
        parts = take_apart(task, samples[: cell.row["n"]], answers.texts, grades)
    except ValueError as error:
        table.notes.append(f"{where}: no interval ({error})")
        return None
    found = parts.total * column.scale
    if not abs(found - cell.score) <= _TOLERANCE:
        table.notes.append(
            f"{where}: no interval, the answers on disk score {found:.2f} and results.json says {cell.score:.2f}"
        )
        return None
    return parts
