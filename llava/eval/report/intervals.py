"""How sure each retention of a table is: paired bootstrap intervals from the answers on disk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llava.eval.answer_sets import answers_of_row
from llava.eval.data_place import DataPlace
from llava.eval.judge.run import read_grades
from llava.eval.report.table import Cell, Column, Line, Table
from llava.eval.results import Row
from llava.eval.tasks import TASKS, Sample, Task, TaskDataError
from llava.eval.tasks.own_file import ROW_FIELD, task_of_row
from llava.results.bootstrap import bootstrap_interval
from llava.results.score_parts import ScoreParts, Sums, mean_of

TOLERANCE = 0.1
"""Of the table's scale, between results.json and answers on disk; LLaVA-Bench's summary is rounded to one decimal."""


def add_intervals(table: Table, data: DataPlace, resamples: int = 2_000) -> None:
    """Puts intervals into the cells of a table, and a note where there can be none.

    Args:
        table: The table.
        data: Where the benchmarks' files are.
        resamples: How often to draw.
    """
    for column in table.columns:
        parts = column_parts(table, column, data)
        base = parts.pop(0, None)
        for place, own in parts.items():
            cell = table.lines[place].cells[column.task]
            if base is not None:
                cell.low, cell.high = _interval(own, base, resamples)


def column_parts(table: Table, column: Column, data: DataPlace, *, compared: bool = True) -> dict[int, ScoreParts]:
    """The scores of a benchmark taken apart, by the place of the line; a note where there can be none.

    Args:
        table: The table; its first line is vanilla, without which there is nothing to compare.
        column: The benchmark.
        data: Where the benchmarks' files are.
        compared: Only of lines that have a retention.

    Returns:
        Those of vanilla and of the other lines; none if vanilla's cannot be had.
    """
    loaded = load_column(table, column, data)
    return {} if loaded is None else parts_by_line(table, column, *loaded, compared=compared)


def load_column(table: Table, column: Column, data: DataPlace) -> tuple[Task, Sequence[Sample]] | None:
    """The task of a column and its questions; None, and a note, if they cannot be had."""
    base = table.vanilla.cells.get(column.task)
    row = base.row if base else {"task": column.task}
    if ROW_FIELD not in row and TASKS.find(column.task) is None:
        why = "no task of that name is registered; name its plug-in with --plugin MODULE_OR_FILE"
        table.notes.append(f"{column.heading}: no intervals, {why}")
        return None
    try:
        task = task_of_row(row, data.root)
        return task, data.load(task, row.get("data_root")).samples
    except TaskDataError as error:
        table.notes.append(f"{column.heading}: no intervals, its data are not here ({error})")
        return None


def parts_by_line(
    table: Table, column: Column, task: Task, samples: Sequence[Sample], *, compared: bool = True
) -> dict[int, ScoreParts]:
    """As `column_parts`, of questions that are loaded."""
    found: dict[int, ScoreParts] = {}
    for place, line in enumerate(table.lines):
        cell = line.cells.get(column.task)
        if cell is None or (place and compared and cell.retention is None):
            continue
        own = _parts(table, column, task, samples, line, cell)
        if own is not None:
            found[place] = own
        elif not place:
            return {}
    return found if 0 in found else {}


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
        found = [_parts_of_row(column, task, samples, line, row) for row in cell.rows]
    except ValueError as error:
        table.notes.append(f"{where}: no interval, {error}")
        return None
    return found[0] if len(found) == 1 else mean_of(found)


def _parts_of_row(column: Column, task: Task, samples: Sequence[Sample], line: Line, row: Row) -> ScoreParts:
    """A row's score taken apart.

    Raises:
        ValueError: What is on disk is not what the row was scored on.
    """
    answers = answers_of_row(line.folder, row)
    if answers is None:
        raise ValueError(f"its answers are not in {line.folder / 'answers' / task.name}")
    grades = read_grades(line.folder, task.name, answers.path.name)
    parts = task.parts(samples[: row["n"]], answers.texts, grades)
    found, written = parts.total * column.facts.factor, row[column.score] * column.facts.factor
    if not abs(found - written) <= TOLERANCE:
        raise ValueError(f"the answers on disk score {found:.2f} and results.json says {written:.2f}")
    return parts
