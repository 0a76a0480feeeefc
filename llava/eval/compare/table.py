"""Folders of a comparison -> one object that Markdown, CSV, LaTeX and SVG are made of."""

from __future__ import annotations

import statistics
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava.eval.answers_key import without_seed
from llava.eval.compare.grid import Grid, Refused
from llava.eval.compare.methods import VISIONZIP, Marks, marks_of, name_without_budget
from llava.eval.report.table import VANILLA, Line, Table, build_table
from llava.eval.results import Row
from llava.model.configuration import CompressionConfig
from llava.results.paper import PaperTable

_COSTS = ("selector_ms", "vision_ms", "prefill_ms", "kv_bytes", "rows_read")
_MEANS_DIFFER = 0.05  # parts of a budget


@dataclass(frozen=True)
class Figure:
    """A measured value and the ends of its interval; None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Costs:
    """What one question costs at batch 1; None where it was not measured.

    Attributes:
        selector_ms: The method's own part, from features to kept tokens.
        vision_ms: Tower, method and projector, the former within.
        prefill_ms: The language model over the whole prompt.
        kv_bytes: Of the cache behind it.
        rows_read: Rows of the image that a layer of the language model reads, the mean over layers.
    """

    selector_ms: float | None = None
    vision_ms: float | None = None
    prefill_ms: float | None = None
    kv_bytes: float | None = None
    rows_read: float | None = None

    @property
    def first_token_ms(self) -> float | None:
        """Until the first token is known."""
        return None if self.vision_ms is None or self.prefill_ms is None else self.vision_ms + self.prefill_ms


@dataclass
class Entry:
    """A method at a budget.

    Attributes:
        line: Its scores, as the report has them.
        budget: None for all tokens.
        tokens: Tokens a tile of the grid; None for all tokens.
        method: What it is called in a matrix: options and what the model was tuned for, no budget.
        label: The same with its budget.
        tuned_for: The compression that the model was tuned under, "" for none; None where its rows do not say.
        marks: Of the method.
        costs: Of one question.
        mean: Mean retention over the comparison's tasks, in percent of all tokens.
        against: By task, retention less VisionZip's at the same budget, in points.
        mean_against: The mean of these.
        yes: By task that asks yes or no, precision and recall of "yes", in percent.
    """

    line: Line
    budget: CompressionConfig | None
    tokens: int | None
    method: str
    label: str
    tuned_for: str | None
    marks: Marks
    costs: Costs
    mean: Figure | None = None
    against: dict[str, Figure] = field(default_factory=dict)
    mean_against: Figure | None = None
    yes: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def is_visionzip(self) -> bool:
        """Whether this is plain VisionZip."""
        return self.budget is not None and name_without_budget(self.budget) == VISIONZIP


@dataclass
class Comparison:
    """Everything that the tables show.

    Attributes:
        table: The report's, whose first line is all tokens.
        entries: In the order of the grid, all tokens first.
        budgets: Tokens a tile, in the order of the grid.
        refused: Pairs that the methods themselves refuse.
        timing: What the milliseconds were measured with; None where that differs or nothing was measured.
        notes: What a reader must know.
        quoted: A table of the paper, to stand apart.
    """

    table: Table
    entries: list[Entry]
    budgets: tuple[int, ...]
    refused: list[Refused]
    timing: dict[str, Any] | None
    notes: list[str]
    quoted: PaperTable | None = None

    @property
    def methods(self) -> list[str]:
        """What the rows of a matrix are called, all tokens left out."""
        return list(dict.fromkeys(entry.method for entry in self.entries if entry.budget is not None))

    def find(self, method: str, tokens: int) -> Entry | None:
        """The entry of a method at a budget."""
        return next((entry for entry in self.entries if (entry.method, entry.tokens) == (method, tokens)), None)

    def reference(self, entry: Entry) -> Entry | None:
        """VisionZip at the budget of an entry, untuned where there is such a row."""
        found = [each for each in self.entries if each.is_visionzip and each.tokens == entry.tokens]
        return next((each for each in found if not each.tuned_for), found[0] if found else None)


def build_comparison(
    folders: Sequence[Path], grid: Grid, quoted: PaperTable | None = None, tasks: Container[str] | None = None
) -> Comparison:
    """Reads output folders; intervals are added by `llava.eval.compare.intervals`.

    Args:
        folders: The first holds the comparison, the others rows to stand beside, a tuned model's above all.
        grid: What was run.
        quoted: A table of the paper.
        tasks: Those that count; None for all that the folders have.

    Raises:
        ValueError: A folder has no rows of the grid, or none has all tokens.
    """
    table = build_table(folders, only={VANILLA, *grid.tokens}, tasks=tasks)
    tokens = {without_seed(name): number for name, number in grid.tokens.items()}
    entries = [_entry(line, tokens) for line in table.lines]
    place = {name: number for number, name in enumerate(tokens)}
    first, *others = entries
    others.sort(key=lambda entry: place.get(without_seed(entry.line.compression), -1))
    table.lines = [entry.line for entry in [first, *others]]
    comparison = Comparison(table, [first, *others], grid.budgets, grid.refused, _timing(table), [], quoted)
    _add_values(comparison)
    answered = {without_seed(line.compression) for line in table.lines}
    if lacking := [name for name in tokens if name not in answered]:
        comparison.notes.append(f"of the grid, nothing is answered yet under: {'; '.join(lacking)}")
    _add_notes(comparison)
    return comparison


def _entry(line: Line, tokens: dict[str, int]) -> Entry:
    rows = [row for cell in line.cells.values() for row in cell.rows]
    budget = None if line.compression == VANILLA else CompressionConfig.parse(line.compression)
    said = {row.get("tuned_for") for row in rows}
    tuned_for = said.pop() if len(said) == 1 else None
    has_clip = any(row.get("clip_text") for row in rows)
    marks = Marks(True, True) if budget is None else marks_of(budget, has_clip=has_clip)
    folder = line.label.removesuffix("vanilla" if budget is None else line.compression)  # "" of a single one
    suffix = ", text-free" * marks.text_free + ", with CLIP" * has_clip
    suffix += ", tuning not known" if tuned_for is None else f", model tuned for {tuned_for}" if tuned_for else ""
    shown = ("all tokens", "all tokens") if budget is None else (name_without_budget(budget), line.compression)
    method, label = (f"{folder}{name}{suffix}" for name in shown)
    number = None if budget is None else tokens[without_seed(line.compression)]
    return Entry(line, budget, number, method, label, tuned_for, marks, _costs(rows))


def _costs(rows: Sequence[Row]) -> Costs:
    """Of one question: one row a seed, as all tasks of a budget share what was measured; the mean over seeds."""
    timed = [row for row in rows if row.get("vision_ms") is not None]
    drawn = list({row["compression"]: row for row in timed}.values())
    values = {name: [row[name] for row in drawn if row.get(name) is not None] for name in _COSTS}
    return Costs(**{name: statistics.mean(found) if found else None for name, found in values.items()})


def _timing(table: Table) -> dict[str, Any] | None:
    """What all rows were measured with, if they were measured in turn."""
    rows = [row for line in table.lines for cell in line.cells.values() for row in cell.rows]
    first = rows[0].get("timing") if rows else None
    return first if first is not None and all(row.get("timing") == first for row in rows) else None


def _add_values(comparison: Comparison) -> None:
    """Means, differences to VisionZip, and precision and recall; without intervals."""
    table = comparison.table
    for entry in comparison.entries:
        mean = entry.line.mean(table.tasks)
        entry.mean = None if mean is None else Figure(mean)
        for task, cell in entry.line.cells.items():
            if all("precision" in row and "recall" in row for row in cell.rows):
                entry.yes[task] = (_mean_of(cell.rows, "precision"), _mean_of(cell.rows, "recall"))
    for entry in comparison.entries:
        other = comparison.reference(entry) if entry.budget is not None else None
        if other is None or other is entry:
            continue
        for task, cell in entry.line.cells.items():
            theirs = other.line.cells.get(task)
            if cell.retention is not None and theirs is not None and theirs.retention is not None:
                entry.against[task] = Figure(cell.retention - theirs.retention)
        if entry.mean is not None and other.mean is not None:
            entry.mean_against = Figure(entry.mean.value - other.mean.value)


def _mean_of(rows: Sequence[Row], name: str) -> float:
    return 100 * statistics.mean(row[name] for row in rows)


def _add_notes(comparison: Comparison) -> None:
    notes = comparison.notes
    if any(entry.tuned_for is None for entry in comparison.entries):
        notes.append("rows of older versions do not say whether their model was tuned: run llava compare on it again")
    elif any(entry.tuned_for for entry in comparison.entries):
        notes.append("a tuned model's rows name the compression that its training_args.json or config.json holds")
    if any(entry.marks.multi_turn is None for entry in comparison.entries):
        notes.append("a method whose code is not loaded has no marks: name its plug-in with --plugin")
    notes.extend(_other_means(comparison))
    if comparison.timing is None:
        notes.append("milliseconds are missing or were not measured in one run: do not compare them across methods")


def _other_means(comparison: Comparison) -> Iterator[str]:
    """Where an adaptive budget has another mean than the budget that it stands under."""
    for entry in comparison.entries:
        other = comparison.reference(entry)
        if other is None or entry.budget is None or entry.budget.adaptive is None:
            continue
        for task, cell in entry.line.cells.items():
            fixed = other.line.cells[task].row["tokens"] if task in other.line.cells else 0
            if fixed and abs(cell.row["tokens"] / fixed - 1) > _MEANS_DIFFER:
                yield (
                    f"{entry.label}, {task}: {cell.row['tokens']:.1f} visual tokens a question where a fixed budget "
                    f"has {fixed:.1f}; calibrate it on images like these before you compare it with that"
                )
