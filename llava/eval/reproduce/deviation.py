"""Ours beside the paper's, cell by cell: how far apart, and whether the paper's value lies within our interval."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llava.eval.data_place import DataPlace
from llava.eval.report.files import defused
from llava.eval.report.intervals import column_parts
from llava.eval.report.settings import paper_lines, settings_lines
from llava.eval.report.table import VANILLA, Column, Table, build_table
from llava.eval.reproduce.plan import Plan
from llava.eval.reproduce.steps import budget_names
from llava.eval.whole_files import markdown_table
from llava.model.configuration import CompressionConfig
from llava.model.tuned_range import TunedRange
from llava.results.bootstrap import percentile_interval, resampled_sums
from llava.results.paper import PaperRow, PaperTable

_NOTHING = "-"


@dataclass(frozen=True)
class Value:
    """One of ours, with its interval where there is one, beside the paper's."""

    ours: float
    paper: float
    low: float | None = None
    high: float | None = None

    @property
    def deviation(self) -> float:
        """Ours less the paper's."""
        return self.ours - self.paper

    @property
    def holds_paper(self) -> bool | None:
        """Whether the paper's value lies within our interval; None without one."""
        return None if self.low is None or self.high is None else self.low <= self.paper <= self.high


@dataclass(frozen=True)
class Deviation:
    """A cell of the table.

    Attributes:
        tokens: Of the paper's row.
        row: The paper's name of it.
        column: The paper's name of the benchmark, or `mean`.
        score: On the paper's scale; None of a mean.
        kept: Of all tokens, in percent; None where it cannot be compared, and of all tokens themselves.
        note: Why the two are not over the same, "" where they are.
    """

    tokens: int
    row: str
    column: str
    score: Value | None
    kept: Value | None = None
    note: str = ""


@dataclass(frozen=True)
class Reproduction:
    """A table of the paper, made again.

    Attributes:
        plan: What was done.
        table: Ours.
        cells: Row by row.
        tuned_for: The compression that the model was tuned under, or the range of them, "" for none.
    """

    plan: Plan
    table: Table
    cells: list[Deviation]
    tuned_for: str

    @property
    def summary(self) -> str:
        """How many of the paper's values lie within our intervals."""
        held = [cell.score.holds_paper for cell in self.cells if cell.score is not None]
        known = [each for each in held if each is not None]
        part = sum(bool(cell.note) for cell in self.cells if cell.score is not None)
        rest = f"; {part} cells are not over what the paper's are, see the notes" if part else ""
        return f"{sum(known)} of {len(known)} of the paper's scores lie within our 95 % intervals{rest}"


def reproduce(plan: Plan) -> Reproduction:
    """Reads what the steps have left.

    Raises:
        ValueError: There are no results.
    """
    names = budget_names(plan)
    table = build_table([*([] if plan.vanilla is None else [plan.vanilla]), plan.output], only=set(names))
    table.lines[1:] = [line for line in table.lines[1:] if line.folder == plan.output and line.compression != VANILLA]
    data = DataPlace(plan.data)
    own = [
        row for line in table.lines if line.folder == plan.output for cell in line.cells.values() for row in cell.rows
    ]
    tuned_for = next((str(row["tuned_for"]) for row in own if row.get("tuned_for")), "")
    draws = {c.task: _draws(table, c, data, plan.resamples, seed) for seed, c in enumerate(table.columns)}
    vanilla = plan.recipe.paper.vanilla
    assert vanilla is not None
    cells: list[Deviation] = []
    for place, line in enumerate(table.lines):
        tokens = names[line.compression]
        row = vanilla if tokens is None else plan.paper_row(tokens, bool(tuned_for))
        for column in table.columns:
            found = _cell(plan.recipe.paper, row, table, column, place, draws[column.task])
            cells += [] if found is None else [found]
        if place:
            cells += _mean(plan.recipe.paper, row, table, place, draws)
    if tuned_for:
        cells = [_of_tuned(cell, plan, tuned_for, names) for cell in cells]
    return Reproduction(plan, table, cells, tuned_for)


def _of_tuned(cell: Deviation, plan: Plan, tuned_for: str, names: dict[str, int | None]) -> Deviation:
    """A cell of a tuned model: without the untuned one there is no share of it, and each row was tuned for itself."""
    if plan.vanilla is None:
        why = "the paper holds a tuned model against the untuned one: give VANILLA"
        cell = replace(cell, kept=None, note="; ".join(filter(None, (cell.note, why))))
    own = next((name for name, tokens in names.items() if tokens == cell.tokens), VANILLA)
    is_own = TunedRange.parse(tuned_for).holds(CompressionConfig.parse(own))
    if not is_own and cell.row == plan.recipe.tuned_rows:
        why = f"this model was tuned for {tuned_for}, the paper's for this row"
        cell = replace(cell, note="; ".join(filter(None, (cell.note, why))))
    return cell


def _draws(table: Table, column: Column, data: DataPlace, resamples: int, seed: int) -> dict[int, NDArray[np.float64]]:
    """Scores of a benchmark over the same draws of its images, by the place of the line."""
    parts = column_parts(table, column, data, compared=False)
    alike = {place: own for place, own in parts.items() if own.groups == parts[0].groups}
    if not alike:
        return {}
    sums = resampled_sums(
        np.concatenate([own.values for own in alike.values()], axis=1), resamples=resamples, seed=seed
    )
    ends = np.cumsum([own.values.shape[1] for own in alike.values()])[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            place: np.asarray(own.score(chunk)) * column.facts.factor
            for (place, own), chunk in zip(alike.items(), np.split(sums, ends, axis=1), strict=True)
        }


def _cell(
    paper: PaperTable, row: PaperRow, table: Table, column: Column, place: int, draws: dict[int, NDArray[np.float64]]
) -> Deviation | None:
    cell = table.lines[place].cells.get(column.task)
    if cell is None or column.heading not in row.scores:
        return None
    score = _with_ends(Value(cell.score, row.scores[column.heading]), draws.get(place))
    kept = None
    if place and cell.retention is not None:
        ratio = _ratio(draws, place)
        kept = _with_ends(Value(cell.retention, paper.retention(row)[column.heading]), ratio)
    note = "; ".join(filter(None, (column.size_note(cell.row), column.facts.paper_note)))
    return Deviation(row.tokens, row.method, column.heading, score, kept, note)


def _mean(
    paper: PaperTable, row: PaperRow, table: Table, place: int, draws: dict[str, dict[int, NDArray[np.float64]]]
) -> list[Deviation]:
    """Mean retention over the columns that both have and the paper averages."""
    tasks = [c.task for c in table.columns if c.task in table.tasks and c.heading in paper.average_over]
    ours, theirs = table.lines[place].mean(tasks), paper.mean(row, table.headings(tasks))
    if ours is None or theirs is None:
        return []
    ratios = [_ratio(draws[task], place) for task in tasks]
    known = [ratio for ratio in ratios if ratio is not None]
    whole = np.mean(known, axis=0) if len(known) == len(tasks) else None
    note = (
        "" if len(tasks) == len(paper.average_over) else f"over {len(tasks)} of the paper's {len(paper.average_over)}"
    )
    return [Deviation(row.tokens, row.method, "mean", None, _with_ends(Value(ours, theirs), whole), note)]


def _ratio(draws: dict[int, NDArray[np.float64]], place: int) -> NDArray[np.float64] | None:
    if place not in draws or 0 not in draws:
        return None
    return np.asarray(100 * draws[place] / np.where(draws[0] > 0, draws[0], np.nan))


def _with_ends(value: Value, draws: NDArray[np.float64] | None) -> Value:
    if draws is None:
        return value
    low, high = percentile_interval(draws)
    return replace(value, low=low, high=high) if np.isfinite(low) and np.isfinite(high) else value


def to_markdown(found: Reproduction) -> str:
    """The paper's table beside ours, and every difference in setting."""
    plan, paper = found.plan, found.plan.recipe.paper
    tuned = f"tuned for {found.tuned_for}" if found.tuned_for else "untuned"
    head = ["row", "tokens", "benchmark", "ours", "paper", "deviation", "paper within ours"]
    head += ["ours, % of all tokens", "paper", "deviation", "paper within ours"]
    rows = [[cell.row, str(cell.tokens), cell.column, *_shown(cell.score), *_shown(cell.kept)] for cell in found.cells]
    notes = {f"{cell.column}: {cell.note}": None for cell in found.cells if cell.note}
    blocks = [
        f"# {paper.name} of arXiv 2412.04467, made again",
        f"Model: `{plan.model}`, {tuned}. The paper's: {paper.model}; {paper.caption}.",
        markdown_table([head, *rows]),
        "In brackets: 95 % intervals of a bootstrap over images, of ours; the paper prints none.",
        found.summary + ".",
    ]
    lines = [*notes, *paper_lines(found.table, paper), *settings_lines(found.table), *found.table.notes]
    return "\n\n".join([*blocks, "## Notes", "\n".join(f"- {line}" for line in dict.fromkeys(lines))]) + "\n"


def to_csv(found: Reproduction) -> str:
    """A line a cell; no cell is a formula to a spreadsheet."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = ("ours", "low", "high", "paper", "deviation", "paper_within")
    writer.writerow(["row", "tokens", "benchmark", *names, *(f"kept_{name}" for name in names), "note"])
    for cell in found.cells:
        values = [*_plain(cell.score), *_plain(cell.kept)]
        writer.writerow(map(defused, [cell.row, str(cell.tokens), cell.column, *values, cell.note]))
    return stream.getvalue()


def _shown(value: Value | None) -> Sequence[str]:
    if value is None:
        return [_NOTHING] * 4
    ends = "" if value.low is None or value.high is None else f" [{value.low:.1f}, {value.high:.1f}]"
    return [f"{value.ours:.1f}{ends}", f"{value.paper:.1f}", f"{value.deviation:+.1f}", _said(value.holds_paper)]


def _plain(value: Value | None) -> Sequence[str]:
    if value is None:
        return [""] * 6
    ends = ["" if end is None else f"{end:.4f}" for end in (value.low, value.high)]
    return [f"{value.ours:.4f}", *ends, f"{value.paper:.4f}", f"{value.deviation:.4f}", _said(value.holds_paper)]


def _said(holds: bool | None) -> str:
    return _NOTHING if holds is None else "yes" if holds else "no"
