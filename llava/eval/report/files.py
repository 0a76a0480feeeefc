"""A table as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from llava.eval.report.settings import asked_lines, paper_lines, settings_lines
from llava.eval.report.table import Cell, Column, Line, Table
from llava.eval.tasks import TASKS
from llava.eval.whole_files import markdown_table
from llava.results.words import tokens_text

_PAPER = "paper: "
_PART = "*"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet takes for the beginning of a formula
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?", re.IGNORECASE)


def to_markdown(table: Table, confidence: int = 95) -> str:
    """The report: scores, retention with intervals and means, and all that is different or missing."""
    in_means, image_means = table.headings(table.tasks), table.headings(table.high_image_tasks)
    blocks = [
        "# Results",
        f"Vanilla is `{table.vanilla.compression}` of `{table.vanilla.folder}`.",
        "## Scores",
        _scores(table),
        "## Retention, % of vanilla",
        _retention(table),
        f"In brackets: {confidence} % intervals of a paired bootstrap over images (MMBench: questions with their "
        f"rotations). mean: over {_counted(in_means)}. high-image mean: over {_counted(image_means)}. It is of the "
        "tasks that cannot be answered without the image.",
    ]
    if any(_is_part(column, line.cells[column.task]) for column, line in _filled(table)):
        blocks.append(f"\\{_PART} not over the published number of questions: see below.")
    settings = settings_lines(table)
    blocks += ["## Differences in setting", *asked_lines(table), _list(settings or ["none between the rows"])]
    if table.paper is not None:
        blocks += ["## Beside the paper", _list(paper_lines(table, table.paper))]
    if table.notes:
        blocks += ["## Notes", _list(list(dict.fromkeys(table.notes)))]
    return "\n\n".join(blocks) + "\n"


def to_csv(table: Table) -> str:
    """A line a score, ours and the paper's; no cell is a formula to a spreadsheet."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    head = ["source", "label", "compression", "tokens", "task", "score_name", "score", "n", "published_n", "release"]
    writer.writerow([*head, "retention", "low", "high", "judge"])
    for line in table.lines:
        for column in table.columns:
            cell = line.cells.get(column.task)
            if cell is None:
                continue
            judge = (cell.row.get("judge") or {}).get("model", "")
            what = [str(line.folder), line.name, line.compression, f"{line.tokens:g}", column.task, column.score]
            n, release, sizes = cell.row["n"], column.release(cell.row), column.facts.published_sizes
            published = column.facts.release_size(release) or (n if n in sizes else next(iter(sizes), ""))
            size = [n, published, release or ""]
            kept = [_plain(value) for value in (cell.retention, cell.low, cell.high)]
            writer.writerow(map(defused, [*what, f"{cell.score:.4f}", *size, *kept, judge]))
    if table.paper is not None:
        named = {task.paper_column: (task.name, task.main_score) for task in TASKS}
        for row in table.paper.rows:
            own = table.paper.retention(row) if table.paper.vanilla is not None else {}
            for name, score in row.scores.items():
                left = [f"paper {table.paper.name}", row.method, "", row.tokens, *named.get(name, (name, ""))]
                writer.writerow(map(defused, [*left, score, "", "", "", _plain(own.get(name)), "", "", ""]))
    return stream.getvalue()


def defused(cell: object) -> object:
    """A cell that begins as a formula does, as text; numbers stay numbers, negative ones too."""
    is_formula = isinstance(cell, str) and cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell


def _scores(table: Table) -> str:
    head = ["method", "tokens", *(column.heading for column in table.columns)]
    lines = []
    for line in table.lines:
        cells = (_score(column, line.cells.get(column.task)) for column in table.columns)
        lines.append([line.name, tokens_text(line.tokens), *cells])
    if table.paper is not None:
        for row in table.paper.rows:
            figures = (row.scores.get(column.heading) for column in table.columns)
            shown = ("-" if figure is None else f"{figure:.1f}" for figure in figures)
            lines.append([_PAPER + row.method, str(row.tokens), *shown])
    return markdown_table([head, *lines])


def _retention(table: Table) -> str:
    head = ["method", "tokens", "mean", "high-image mean", *(column.heading for column in table.columns)]
    lines = []
    for line in table.lines:
        means = [_percent(line.mean(table.tasks)), _percent(line.mean(table.high_image_tasks))]
        cells = (_kept(column, line.cells.get(column.task)) for column in table.columns)
        lines.append([line.name, tokens_text(line.tokens), *means, *cells])
    if table.paper is not None and table.paper.vanilla is not None:
        averaged = table.headings(table.tasks), table.headings(table.high_image_tasks)
        for row in table.paper.rows:
            kept = table.paper.retention(row)
            means = [_percent(table.paper.mean(row, headings)) for headings in averaged]
            cells = (_percent(kept.get(column.heading)) for column in table.columns)
            lines.append([_PAPER + row.method, str(row.tokens), *means, *cells])
    return markdown_table([head, *lines])


def _score(column: Column, cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.score:.1f}" + _PART * _is_part(column, cell)


def _kept(column: Column, cell: Cell | None) -> str:
    if cell is None or cell.retention is None:
        return "-"
    interval = "" if cell.low is None or cell.high is None else f" [{cell.low:.1f}, {cell.high:.1f}]"
    return f"{cell.retention:.1f}{_PART * _is_part(column, cell)}{interval}"


def _is_part(column: Column, cell: Cell) -> bool:
    return column.size_note(cell.row) is not None


def _filled(table: Table) -> list[tuple[Column, Line]]:
    return [(column, line) for line in table.lines for column in table.columns if column.task in line.cells]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _counted(headings: Sequence[str]) -> str:
    return f"{len(headings)} ({', '.join(headings)})" if headings else "no task (none is in all rows)"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
