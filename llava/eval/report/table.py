"""Folders of results -> a table: rows are methods and budgets, columns are benchmarks, all against one vanilla."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava.eval.answers_key import without_seed
from llava.eval.results import Row, read_results, tokens_of
from llava.results.paper import PaperTable, mean_over, paper_columns
from llava.results.rows import differences, main_score, main_value, question_marks
from llava.results.task_facts import TaskFacts, facts_of

VANILLA = "none"


@dataclass(frozen=True)
class Column:
    """A benchmark in the table.

    Attributes:
        task: Its task.
        score: Which of the task's scores stands here.
        facts: What the rows say of the task.
    """

    task: str
    score: str
    facts: TaskFacts

    @property
    def heading(self) -> str:
        """The paper's name of it, where the paper has it."""
        return self.facts.paper_column or self.task

    @property
    def benchmark(self) -> str:
        """What its variants share."""
        return self.facts.benchmark or self.task

    def size_note(self, row: Row) -> str | None:
        """A line if the papers' figures are over other questions than the row is."""
        return self.facts.size_note(self.task, row["n"], self.release(row))

    def release(self, row: Row) -> str | None:
        """What the files are called that a row's questions are from; rows of older versions do not say it."""
        return row["release"] if "release" in row else self.facts.release(row["n"])


@dataclass
class Cell:
    """A score and what it keeps of vanilla.

    Attributes:
        rows: Rows of results.json: one, or one a seed of a method that draws.
        score: The score on the table's scale, the mean over `rows`.
        retention: In percent of vanilla; None where it cannot be compared.
        low: Lower end of the retention's interval, or None.
        high: Upper end.
    """

    rows: list[Row]
    score: float
    retention: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def row(self) -> Row:
        """The row, or that of the first seed."""
        return self.rows[0]


@dataclass
class Line:
    """A method at a budget.

    Attributes:
        folder: The folder that its results are from.
        label: What it is called in the table.
        compression: Its budget, as results.json names it.
        tokens: Visual tokens a question.
        cells: By task.
    """

    folder: Path
    label: str
    compression: str
    tokens: float
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its label, and how it reads the question: `text-free`, `with CLIP`, `not multi-turn safe`."""
        return self.label + question_marks(row for cell in self.cells.values() for row in cell.rows)

    def mean(self, tasks: Sequence[str]) -> float | None:
        """Mean retention over tasks, in percent; None if one of them lacks."""
        kept = {task: cell.retention for task, cell in self.cells.items() if cell.retention is not None}
        return mean_over(kept, tasks)


@dataclass
class Table:
    """Everything that a report shows.

    Attributes:
        columns: The benchmarks, in the paper's order.
        lines: The methods; the first is the vanilla that all are compared with.
        runs: The `run` entry of each folder's results.json.
        tasks: Tasks that the means are over, in the order of the columns: all lines have a retention of each.
        notes: What a reader must know.
        paper: The paper's table that stands beside, or None.
    """

    columns: list[Column]
    lines: list[Line]
    runs: dict[Path, dict[str, Any]]
    tasks: list[str]
    notes: list[str] = field(default_factory=list)
    paper: PaperTable | None = None

    @property
    def vanilla(self) -> Line:
        """What all are compared with."""
        return self.lines[0]

    @property
    def high_image_tasks(self) -> list[str]:
        """Those of `tasks` that need the image."""
        return [column.task for column in self.columns if column.task in self.tasks and column.facts.needs_image]

    def headings(self, tasks: Sequence[str]) -> list[str]:
        """The headings of tasks, in the order of the columns."""
        return [column.heading for column in self.columns if column.task in tasks]


def build_table(
    folders: Sequence[Path],
    paper: PaperTable | None = None,
    only: Container[str] | None = None,
    tasks: Container[str] | None = None,
    *,
    join_seeds: bool = True,
) -> Table:
    """Reads folders of results.

    Args:
        folders: Output folders of llava.eval. The first that has results without compression gives the vanilla.
        paper: A table of the paper to be shown beside.
        only: Budgets, as results.json names them, whose rows count; None for all.
        tasks: Tasks whose rows count; None for all.
        join_seeds: Whether the seeds of a method that draws are one line, their mean.

    Raises:
        ValueError: A folder has no results, or none has results without compression.
    """
    lines: list[Line] = []
    notes: list[str] = []
    runs = {}
    folders = list(dict.fromkeys(folders))
    for folder, name in zip(folders, _names(folders), strict=True):
        path = folder / "results.json"
        rows = [row for row in read_results(path) if only is None or row["compression"] in only]
        rows = [row for row in rows if tasks is None or row["task"] in tasks]
        if not rows:
            raise ValueError(f"{path} does not exist or has no rows; run python -m llava.eval --output-dir {folder}")
        runs[folder] = json.loads(path.read_text(encoding="utf-8"))["run"]
        own = _lines(folder, name, rows, notes)
        lines += _over_seeds(own, notes) if join_seeds else own
    vanilla = next((line for line in lines if line.compression == VANILLA), None)
    if vanilla is None:
        raise ValueError(f"{', '.join(map(str, folders))}: no results without compression; add --compression none")
    lines.remove(vanilla)
    lines.insert(0, vanilla)
    columns = _columns(lines)
    for line in lines:
        _compare(line, vanilla, notes)
    counted: list[Column] = []
    for column in columns:
        if reason := _why_not_in_means(column, columns, lines, counted, paper):
            notes.append(f"{column.heading} is not in the means: {reason}")
        else:
            counted.append(column)
    return Table(columns, lines, runs, [column.task for column in counted], notes, paper)


def column_of(row: Row) -> Column:
    """How the task of a row stands in the table."""
    return Column(row["task"], main_score(row), facts_of(row))


def _names(folders: Sequence[Path]) -> list[str]:
    """What rows of each folder begin with: its name, its path where two have one name; nothing of a single folder."""
    if len(folders) == 1:
        return [""]
    names = [folder.resolve().name for folder in folders]
    return [f"{name if names.count(name) == 1 else folder} " for folder, name in zip(folders, names, strict=True)]


def _lines(folder: Path, prefix: str, rows: Sequence[Row], notes: list[str]) -> list[Line]:
    by_budget: dict[str, list[Row]] = {}
    for row in rows:
        by_budget.setdefault(row["compression"], []).append(row)
    lines = []
    for compression, own in by_budget.items():
        label = prefix + ("vanilla" if compression == VANILLA else compression)
        line = Line(folder, label, compression, _tokens(own))
        for task in dict.fromkeys(row["task"] for row in own):
            found = [row for row in own if row["task"] == task]
            column = column_of(found[-1])
            scored = [(row, value) for row in found if (value := main_value(row)) is not None]
            if not scored:
                notes.append(f"{label}, {column.heading}: not scored ({_why_not(column.facts)})")
                continue
            fullest, value = max(reversed(scored), key=lambda pair: pair[0]["n"])  # the newest of those
            if len(scored) > 1:
                others = ", ".join(str(row["n"]) for row, _ in scored if row is not fullest)
                notes.append(f"{label}, {column.heading}: shown is the row over {fullest['n']}; others: {others}")
            line.cells[task] = Cell([fullest], value * column.facts.factor)
            if fullest.get("adaptive"):
                notes.append(f"{label}, {column.heading}: {tokens_of(fullest)} visual tokens a question")
        lines.append(line)
    return lines


def _over_seeds(lines: Sequence[Line], notes: list[str]) -> list[Line]:
    """The lines, those of one budget under several seeds as one: the mean of what all of them have."""
    by_budget: dict[str, list[Line]] = {}
    for line in lines:
        by_budget.setdefault(without_seed(line.compression), []).append(line)
    done = []
    for compression, drawn in by_budget.items():
        if len(drawn) == 1:
            done.append(drawn[0])
            continue
        first = drawn[0]
        line = Line(first.folder, without_seed(first.label), compression, first.tokens)
        notes.append(f"{line.label}: mean of {len(drawn)} seeds")
        for task in dict.fromkeys(task for own in drawn for task in own.cells):
            cells = [own.cells[task] for own in drawn if task in own.cells]
            if len(cells) == len(drawn) and len({cell.row["n"] for cell in cells}) == 1:
                score = sum(cell.score for cell in cells) / len(cells)
                line.cells[task] = Cell([cell.row for cell in cells], score)
            else:
                heading = column_of(cells[0].row).heading
                notes.append(f"{line.label}, {heading}: not shown, not all seeds were asked the same questions")
        done.append(line)
    return done


def _why_not(facts: TaskFacts) -> str:
    return "python -m llava.eval.judge has not graded it" if facts.judged else "its answers are not public"


def _tokens(rows: Sequence[Row]) -> float:
    """The number of visual tokens that most tasks have: those with several images a question have more.

    Of an adaptive budget it is the mean over all questions.
    """
    if all(row.get("adaptive") for row in rows):
        return round(sum(row.get("tokens", 0) * row["n"] for row in rows) / max(sum(row["n"] for row in rows), 1), 1)
    counts = Counter(row.get("tokens", 0) for row in rows)
    return float(counts.most_common(1)[0][0])


def _columns(lines: Sequence[Line]) -> list[Column]:
    present = {task: column_of(cell.row) for line in reversed(lines) for task, cell in line.cells.items()}
    order = {heading: place for place, heading in enumerate(paper_columns())}
    return sorted(present.values(), key=lambda column: (order.get(column.heading, len(order)), column.task))


def _compare(line: Line, vanilla: Line, notes: list[str]) -> None:
    """Retention wherever `results.json` has it too, be vanilla's row in another folder: where rows are comparable."""
    for task, cell in line.cells.items():
        base = vanilla.cells.get(task)
        if base is None:
            continue
        otherwise = dict.fromkeys(name for row in cell.rows for name in differences(row, base.row))
        if otherwise:
            where = f"{line.label}, {column_of(base.row).heading}"
            notes.append(f"{where}: no retention, vanilla differs in {', '.join(otherwise)}")
        elif base.score > 0:
            cell.retention = 100 * cell.score / base.score


def _why_not_in_means(
    column: Column,
    columns: Sequence[Column],
    lines: Sequence[Line],
    counted: Sequence[Column],
    paper: PaperTable | None,
) -> str | None:
    """Why a benchmark of the columns does not count in the means beside those that do; None if it does."""
    beside = paper is not None and column.heading in paper.average_over
    if not (column.facts.in_means or beside) and any(other.facts.in_means for other in columns):
        return f"it is none of the paper's benchmarks{' of images' if column.facts.paper_column else ''}"
    if lacking := _lacking(column, lines):
        return f"{', '.join(lacking)} cannot be compared there"
    if paper is not None and column.heading not in paper.average_over:
        return f"it is not in those of the paper's {paper.name}"
    other = next((other for other in counted if other.benchmark == column.benchmark), None)
    return f"{other.heading} is, another variant of it" if other is not None else None


def _lacking(column: Column, lines: Sequence[Line]) -> list[str]:
    """Labels of the lines that have no retention of a benchmark."""
    cells = ((line.label, line.cells.get(column.task)) for line in lines)
    return [label for label, cell in cells if cell is None or cell.retention is None]
