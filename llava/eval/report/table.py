"""Folders of results -> a table: rows are methods and budgets, columns are benchmarks, all against one vanilla."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from llava.eval.answers_key import without_seed
from llava.eval.results import Row, read_results
from llava.eval.tasks import Sample, available_tasks, get_task
from llava.results.paper import COLUMNS, PaperTable
from llava.results.rows import differences

VANILLA = "none"
HIGH_IMAGE = ("gqa", "pope", "textvqa", "vqav2_val", "mme")
"""Benchmarks that cannot be answered without the image: of ScienceQA and MMMU 82 % and 92 % remain without one."""

_ALTERNATIVES = (
    ("mmbench", "mmbench_cn"),
    ("sqa_img", "sqa_full"),
    ("textvqa", "textvqa_no_ocr"),
    ("mmmu_val", "mmmu_val_official"),
    ("seed", "seed_image", "seed_video"),
)
"""Variants of a benchmark: the first that is there counts in the means."""

_OWN_SCALES = ("mme", "mmvet", "llava_bench")  # points and percent; all other scores are shares of 1


@dataclass(frozen=True)
class Column:
    """A benchmark in the table.

    Attributes:
        task: Its task.
        heading: The paper's name of it, where the paper has it.
        score: Which of the task's scores stands here.
        scale: What the score is multiplied by.
        published_size: Rows of the published split, or None.
    """

    task: str
    heading: str
    score: str
    scale: float
    published_size: int | None

    def size_note(self, n: int) -> str | None:
        """A line if the published split has another number of questions than n."""
        if self.task not in available_tasks():
            return None
        return get_task(self.task).size_note(cast("Sequence[Sample]", range(n)))  # only their number counts


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

    def mean(self, tasks: Sequence[str]) -> float | None:
        """Mean retention over tasks, in percent; None if one of them lacks."""
        values = [self.cells[task].retention if task in self.cells else None for task in tasks]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if values and len(known) == len(values) else None


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
        """Those of `tasks` that need the image, whichever variant of a benchmark stands there."""
        return [task for task in self.tasks if any(name in HIGH_IMAGE for name in _variants(task))]


def build_table(folders: Sequence[Path], paper: PaperTable | None = None) -> Table:
    """Reads folders of results.

    Args:
        folders: Output folders of llava.eval. The first that has results without compression gives the vanilla.
        paper: A table of the paper to be shown beside.

    Raises:
        ValueError: A folder has no results, or none has results without compression.
    """
    lines: list[Line] = []
    notes: list[str] = []
    runs = {}
    for folder in folders:
        path = folder / "results.json"
        rows = read_results(path)
        if not rows:
            raise ValueError(f"{path} does not exist or has no rows; run python -m llava.eval --output-dir {folder}")
        runs[folder] = json.loads(path.read_text(encoding="utf-8"))["run"]
        lines += _over_seeds(_lines(folder, rows, notes, name_folder=len(folders) > 1), notes)
    vanilla = next((line for line in lines if line.compression == VANILLA), None)
    if vanilla is None:
        raise ValueError(f"{', '.join(map(str, folders))}: no results without compression; add --compression none")
    lines.remove(vanilla)
    lines.insert(0, vanilla)
    columns = _columns(lines)
    for line in lines:
        _compare(line, vanilla, notes)
    tasks: list[str] = []
    for column in columns:
        if reason := _why_not_in_means(column, lines, tasks, paper):
            notes.append(f"{column.heading} is not in the means: {reason}")
        else:
            tasks.append(column.task)
    return Table(columns, lines, runs, tasks, notes, paper)


def column_of(task_name: str) -> Column:
    """How a task stands in the table."""
    published = get_task(task_name).published_size if task_name in available_tasks() else None
    for heading, column in COLUMNS.items():
        if column.task == task_name:
            return Column(task_name, heading, column.score, column.scale, published)
    score = get_task(task_name).main_score if task_name in available_tasks() else "accuracy"
    return Column(task_name, task_name, score, 1.0 if task_name in _OWN_SCALES else 100.0, published)


def _lines(folder: Path, rows: Sequence[Row], notes: list[str], *, name_folder: bool) -> list[Line]:
    by_budget: dict[str, list[Row]] = {}
    for row in rows:
        by_budget.setdefault(row["compression"], []).append(row)
    lines = []
    for compression, own in by_budget.items():
        label = "vanilla" if compression == VANILLA else compression
        label = f"{folder.name} {label}" if name_folder else label
        line = Line(folder, label, compression, _tokens(own))
        for task in dict.fromkeys(row["task"] for row in own):
            column = column_of(task)
            found = [row for row in own if row["task"] == task]
            scored = [row for row in found if _number(row.get(column.score)) is not None]
            if not scored:
                notes.append(f"{label}, {column.heading}: not scored ({_why_not(task)})")
                continue
            fullest = max(reversed(scored), key=lambda row: row["n"])  # the newest of those
            if len(scored) > 1:
                others = ", ".join(str(row["n"]) for row in scored if row is not fullest)
                notes.append(f"{label}, {column.heading}: shown is the row over {fullest['n']}; others: {others}")
            line.cells[task] = Cell([fullest], float(fullest[column.score]) * column.scale)
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
                heading = column_of(task).heading
                notes.append(f"{line.label}, {heading}: not shown, not all seeds were asked the same questions")
        done.append(line)
    return done


def _why_not(task: str) -> str:
    judged = task in ("mmvet", "llava_bench")
    return "python -m llava.eval.judge has not graded it" if judged else "its answers are not public"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _tokens(rows: Sequence[Row]) -> float:
    """The number of visual tokens that most tasks have: those with several images a question have more."""
    counts = Counter(row.get("tokens", 0) for row in rows)
    return float(counts.most_common(1)[0][0])


def _columns(lines: Sequence[Line]) -> list[Column]:
    present = {task for line in lines for task in line.cells}
    known = [column.task for column in COLUMNS.values() if column.task in present]
    return [column_of(task) for task in (*known, *sorted(present - set(known)))]


def _compare(line: Line, vanilla: Line, notes: list[str]) -> None:
    """Retention wherever `results.json` has it too, be vanilla's row in another folder: where rows are comparable."""
    for task, cell in line.cells.items():
        base = vanilla.cells.get(task)
        if base is None:
            continue
        otherwise = dict.fromkeys(name for row in cell.rows for name in differences(row, base.row))
        if otherwise:
            where = f"{line.label}, {column_of(task).heading}"
            notes.append(f"{where}: no retention, vanilla differs in {', '.join(otherwise)}")
        elif base.score > 0:
            cell.retention = 100 * cell.score / base.score


def _why_not_in_means(
    column: Column, lines: Sequence[Line], counted: Sequence[str], paper: PaperTable | None
) -> str | None:
    """Why a benchmark does not count in the means beside those that do; None if it does."""
    if lacking := _lacking(column, lines):
        return f"{', '.join(lacking)} cannot be compared there"
    if paper is not None and column.heading not in paper.average_over:
        return f"it is not in those of the paper's {paper.name}"
    other = next((task for task in _variants(column.task) if task in counted), None)
    return f"{column_of(other).heading} is, another variant of it" if other is not None else None


def _variants(task: str) -> tuple[str, ...]:
    """The benchmark's variants, this one among them."""
    return next((group for group in _ALTERNATIVES if task in group), (task,))


def _lacking(column: Column, lines: Sequence[Line]) -> list[str]:
    """Labels of the lines that have no retention of a benchmark."""
    cells = ((line.label, line.cells.get(column.task)) for line in lines)
    return [label for label, cell in cells if cell is None or cell.retention is None]


def paper_means(table: PaperTable, tasks: Sequence[str]) -> Mapping[tuple[str, int], float | None]:
    """Mean retention of the paper's rows over the columns that are these tasks; None where it lacks one of them."""
    names = [name for name, column in COLUMNS.items() if column.task in tasks]
    complete = bool(names) and len(names) == len(tasks) and all(name in table.columns for name in names)
    means: dict[tuple[str, int], float | None] = {}
    for row in table.rows:
        kept = table.retention(row) if table.vanilla is not None else {}
        means[row.method, row.tokens] = sum(kept[n] for n in names) / len(names) if complete and kept else None
    return means
