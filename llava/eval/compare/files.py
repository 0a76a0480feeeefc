"""A comparison as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llava.eval.compare.table import Comparison, Entry, Figure
from llava.eval.report.files import defused
from llava.eval.report.settings import asked_lines, settings_lines
from llava.eval.report.table import Column
from llava.eval.whole_files import markdown_table
from llava.results.paper import PaperTable
from llava.results.words import counted, tokens_text

NOTHING = "-"
_MIB = 2**20


def to_markdown(comparison: Comparison, confidence: int = 95) -> str:
    """Matrices of methods and budgets, then scores, costs and marks; what papers quote stands apart at the end."""
    table = comparison.table
    tasks = ", ".join(table.headings(table.tasks)) or "none is in all rows"
    drawn = _has_intervals(comparison)
    blocks = [
        "# Methods of compression compared",
        f"All tokens are `{table.vanilla.compression}` of `{table.vanilla.folder}`. Budgets are tokens a tile.",
        "## Mean retention, % of all tokens",
        _matrix(comparison, lambda entry: entry.mean),
        _about_means(comparison, tasks, confidence),
        "## Against VisionZip at the same budget, points of retention",
        _matrix(comparison, lambda entry: entry.mean_against, signed=True),
        *(["Paired: both see the same draws. \\* marks an interval that does not hold 0."] if drawn else []),
        "## Scores",
        _by_task(comparison, _score),
        "## Retention by task, % of all tokens",
        _by_task(comparison, _kept),
        "## Against VisionZip by task, points of retention",
        _by_task(comparison, lambda entry, column: _shown(entry.against.get(column.task), signed=True)),
        "## Cost of one question",
        _costs(comparison),
        _timing_line(comparison),
    ]
    if any(entry.yes for entry in comparison.entries):
        blocks += ["## Yes and no", _yes(comparison)]
    blocks += ["## What the methods are", _marks(comparison), _MARKS_EXPLAINED]
    if comparison.refused:
        left = [f"{pair.method} at {pair.tokens}: {pair.reason}" for pair in comparison.refused]
        blocks += ["## Left out: the method refuses the budget", _list(left)]
    blocks += [
        "## Differences in setting",
        *asked_lines(table),
        _list(settings_lines(table) or ["none between the rows"]),
    ]
    if notes := list(dict.fromkeys([*comparison.notes, *table.notes])):
        blocks += ["## Notes", _list(notes)]
    if comparison.quoted is not None:
        blocks += _quoted(comparison.quoted)
    return "\n\n".join(blocks) + "\n"


_MARKS_EXPLAINED = (
    "every turn: keeps the same tokens whatever is asked, so an encoded image serves a whole conversation. servable: "
    "ends before the language model with a number of tokens that is known beforehand, reads nothing but the image, and "
    "leaves attention as it is, so engines can take it. rule: "
    "`reference` follows the public code, `distinct` always keeps K distinct tokens."
)


def _has_intervals(comparison: Comparison) -> bool:
    return any(entry.mean is not None and entry.mean.low is not None for entry in comparison.entries)


def _about_means(comparison: Comparison, tasks: str, confidence: int) -> str:
    count = len(comparison.table.tasks)
    over = f"Mean over {counted(count, 'task')} ({tasks})."
    if not _has_intervals(comparison):
        return over
    return f"{over} In brackets: {confidence} % intervals of a paired bootstrap over images."


def _matrix(comparison: Comparison, figure: Callable[[Entry], Figure | None], *, signed: bool = False) -> str:
    head = ["method", *map(str, comparison.budgets)]
    lines = []
    for method in comparison.methods:
        found = (comparison.find(method, tokens) for tokens in comparison.budgets)
        cells = (None if entry is None else figure(entry) for entry in found)
        lines.append([method, *(_shown(cell, signed=signed) for cell in cells)])
    return markdown_table([head, *lines])


def _by_task(comparison: Comparison, cell: Callable[[Entry, Column], str]) -> str:
    columns = comparison.table.columns
    head = ["method", "tokens", *(column.heading for column in columns)]
    lines = [
        [e.label, tokens_text(e.line.tokens), *(cell(e, column) for column in columns)] for e in comparison.entries
    ]
    return markdown_table([head, *lines])


def _score(entry: Entry, column: Column) -> str:
    cell = entry.line.cells.get(column.task)
    return NOTHING if cell is None else f"{cell.score:.1f}"


def _kept(entry: Entry, column: Column) -> str:
    cell = entry.line.cells.get(column.task)
    if cell is None or cell.retention is None:
        return NOTHING
    return _shown(Figure(cell.retention, cell.low, cell.high))


def _costs(comparison: Comparison) -> str:
    head = ["method", "tokens", "rows a layer reads", "own ms", "vision ms", "prefill ms", "KV MiB"]
    lines = [[entry.label, tokens_text(entry.line.tokens), *cost_cells(entry)] for entry in comparison.entries]
    return markdown_table([head, *lines])


def cost_cells(entry: Entry) -> list[str]:
    """Rows a layer reads, own, vision and prefill milliseconds, and MiB of keys and values."""
    costs = entry.costs
    size = None if costs.kv_bytes is None else costs.kv_bytes / _MIB
    shown = [_number(costs.rows_read, 1), _number(costs.selector_ms, 2), _number(costs.vision_ms, 2)]
    return [*shown, _number(costs.prefill_ms, 2), _number(size, 2)]


def _timing_line(comparison: Comparison) -> str:
    timing = comparison.timing
    about = (
        "own ms: from the features that a method reads to the tokens that it keeps, within vision ms. The cost of "
        "a method inside the language model is in prefill ms. KV MiB is what the cache holds behind the prompt."
    )
    if timing is None:
        return f"{about} Not measured in one run."
    return (
        f"{about} Medians of {timing['repeats']} turns, the budgets in turn, on one question of {timing['task']} at "
        f"batch 1: {timing['device']}, {timing['dtype']}.{adaptive_costs(timing)}"
    )


def adaptive_costs(timing: Mapping[str, Any]) -> str:
    """How many tokens budgets that follow the picture keep where they are timed, in sentences; "" without one."""
    said = (
        f"`{name}` keeps {tokens_text(kept['tokens'])} tokens there, {tokens_text(kept['mean'])} on average"
        for name, kept in timing.get("adaptive", {}).items()
    )
    return "".join(f" {line}." for line in said)


def _yes(comparison: Comparison) -> str:
    columns = [c for c in comparison.table.columns if any(c.task in entry.yes for entry in comparison.entries)]
    head = ["method", *(f"{column.heading} {name}" for column in columns for name in ("precision", "recall"))]
    lines = []
    for entry in comparison.entries:
        pairs = [entry.yes.get(column.task, (None, None)) for column in columns]
        lines.append([entry.label, *(_number(value, 1) for pair in pairs for value in pair)])
    return markdown_table([head, *lines])


def _marks(comparison: Comparison) -> str:
    head = ["method", "every turn", "servable", "rule", "model tuned for", "source"]
    lines = []
    for method in comparison.methods:
        entry = next(entry for entry in comparison.entries if entry.method == method)
        marks = entry.marks
        tuned = "not known" if entry.tuned_for is None else entry.tuned_for or "untuned"
        lines.append(
            [method, yes_or_no(marks.multi_turn), yes_or_no(marks.servable), marks.rule or NOTHING, tuned, marks.source]
        )
    return markdown_table([head, *lines])


def _quoted(quoted: PaperTable) -> list[str]:
    """Figures of a paper under a heading of their own, with their source."""
    head = ["method", "tokens", *quoted.columns, "printed average, %"]
    lines = [
        [row.method, str(row.tokens), *(f"{row.scores[name]:g}" for name in quoted.columns), f"{row.average:g}"]
        for row in quoted.rows
    ]
    about = f"Quoted, not measured here: {quoted.name} of arXiv 2412.04467, {quoted.model}; {quoted.caption}."
    return ["## Quoted from the paper", about, markdown_table([head, *lines])]


def to_csv(comparison: Comparison) -> str:
    """A line a score; quoted figures have a column of their own, and no cell is a formula to a spreadsheet."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_HEAD)
    for entry in comparison.entries:
        for row in _csv_rows(entry, comparison):
            writer.writerow([defused(row.get(name, "")) for name in _HEAD])
    if comparison.quoted is not None:
        for line in comparison.quoted.rows:
            for name, score in line.scores.items():
                row = {"kind": "quoted", "source": f"{comparison.quoted.name} of arXiv 2412.04467"}
                row |= {"label": line.method, "tokens": str(line.tokens), "task": name, "quoted": f"{score:g}"}
                writer.writerow([defused(row.get(name, "")) for name in _HEAD])
    return stream.getvalue()


_HEAD = (
    *("kind", "source", "label", "compression", "tokens_a_tile", "tokens", "task", "score_name", "score", "n"),
    *("retention", "low", "high", "against_visionzip", "against_low", "against_high", "precision", "recall"),
    *("selector_ms", "vision_ms", "prefill_ms", "kv_bytes", "rows_read"),
    *("every_turn", "servable", "rule", "tuned_for", "quoted"),
)


def _csv_rows(entry: Entry, comparison: Comparison) -> list[dict[str, str]]:
    costs, marks = entry.costs, entry.marks
    about = {
        "kind": "measured",
        "source": str(entry.line.folder),
        "label": entry.label,
        "compression": entry.line.compression,
        "tokens_a_tile": "" if entry.tokens is None else str(entry.tokens),
        "tokens": f"{entry.line.tokens:g}",
        "every_turn": yes_or_no(marks.multi_turn),
        "servable": yes_or_no(marks.servable),
        "rule": marks.rule,
        "tuned_for": "not known" if entry.tuned_for is None else entry.tuned_for,
    }
    about |= {name: _plain(getattr(costs, name)) for name in ("selector_ms", "vision_ms", "prefill_ms")}
    about |= {name: _plain(getattr(costs, name)) for name in ("kv_bytes", "rows_read")}
    rows = []
    for column in comparison.table.columns:
        cell = entry.line.cells.get(column.task)
        if cell is None:
            continue
        row = {"task": column.task, "score_name": column.score, "score": f"{cell.score:.4f}", "n": str(cell.row["n"])}
        row |= _ends("retention", cell.retention and Figure(cell.retention, cell.low, cell.high), ("low", "high"))
        row |= _ends("against_visionzip", entry.against.get(column.task), ("against_low", "against_high"))
        if column.task in entry.yes:
            row |= dict(zip(("precision", "recall"), map(_plain, entry.yes[column.task]), strict=True))
        rows.append(about | row)
    mean = {"task": f"mean of {len(comparison.table.tasks)}"}
    mean |= _ends("retention", entry.mean, ("low", "high"))
    mean |= _ends("against_visionzip", entry.mean_against, ("against_low", "against_high"))
    return [*rows, about | mean]


def _ends(name: str, figure: Figure | float | None, ends: tuple[str, str]) -> dict[str, str]:
    if not isinstance(figure, Figure):
        return {}
    return {name: _plain(figure.value), ends[0]: _plain(figure.low), ends[1]: _plain(figure.high)}


def _shown(figure: Figure | None, *, signed: bool = False) -> str:
    """`97.1 [96.0, 98.2]`; a difference has its sign, and a star where its interval does not hold 0."""
    if figure is None:
        return NOTHING
    star = "\\*" * (signed and figure.excludes_zero)
    if figure.low is None or figure.high is None:
        return tenths(figure.value, signed)
    return f"{tenths(figure.value, signed)}{star} [{tenths(figure.low, signed)}, {tenths(figure.high, signed)}]"


def tenths(value: float, signed: bool) -> str:
    """A number with one decimal; what rounds to 0 has no minus."""
    rounded = round(value, 1) + 0.0
    return f"{rounded:+.1f}" if signed else f"{rounded:.1f}"


def yes_or_no(value: bool | None) -> str:
    """A mark in words."""
    return "?" if value is None else "yes" if value else "no"


def _number(value: float | None, places: int) -> str:
    return NOTHING if value is None else f"{value:.{places}f}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}".rstrip("0").rstrip(".")


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
