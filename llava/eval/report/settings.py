"""A line for every setting in which the rows of a table differ, from each other and from the paper."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llava.eval.report.table import Column, Table
from llava.eval.results import Row
from llava.results.paper import PaperTable
from llava.results.rows import same_judge

_SETTINGS = (
    *("n", "release", "prompts", "references", "rules", "conv_mode", "dtype", "generation", "exact", "data"),
    *("plugins", "versions", "commit"),
)
_WAYS = {
    True: "one by one, nothing shared (--exact)",
    False: "in batches that share work; in half precision single answers may differ from those of --exact",
    None: "in a way that the results do not name",
}
_CIRCUMSTANCES = (
    ("errors", "questions had no answer"),
    ("bad_rows", "rows of the data were left out"),
    ("missing_videos", "videos were missing"),
)
_PAPER_DTYPE = "torch.float16"


def settings_lines(table: Table) -> list[str]:
    """All differences, those that several columns or rows share in one line."""
    found: dict[str, list[str]] = {}
    for where, what in _differences(table):
        found.setdefault(what, []).append(where)
    return [*_run_lines(table), *(f"{what}: {', '.join(dict.fromkeys(places))}" for what, places in found.items())]


def asked_lines(table: Table) -> list[str]:
    """In which way the questions were asked: a line if all rows say the same, else a line a way with its rows."""
    ways: dict[Any, list[str]] = {}
    for line in table.lines:
        for column in table.columns:
            if (cell := line.cells.get(column.task)) is not None:
                for row in cell.rows:
                    ways.setdefault(row.get("exact"), []).append(f"{line.label} {column.heading}")
    if len(ways) == 1:
        return [f"Questions were asked {_WAYS[way]}." for way in ways]
    return [f"Questions were asked {_WAYS[way]}: {', '.join(places)}." for way, places in ways.items()]


def paper_lines(table: Table, paper: PaperTable) -> list[str]:
    """How the vanilla row's settings differ from those of the paper."""
    about = paper.caption if paper.caption.startswith(paper.model) else f"{paper.model}; {paper.caption}"
    lines = [f"paper: {paper.name} of arXiv 2412.04467, {about}"]
    in_means = table.headings(table.tasks)
    lacking = [name for name in paper.average_over if name not in in_means]
    if lacking:
        count = len(paper.average_over)
        lines.append(
            f"the paper's own means are over {count} benchmarks, of which these lack here: {', '.join(lacking)}"
        )
    found: dict[str, list[str]] = {}
    for column in table.columns:
        cell = table.vanilla.cells.get(column.task)
        if cell is None:
            continue
        row = cell.row
        if row.get("dtype") != _PAPER_DTYPE:
            found.setdefault(f"{row.get('dtype')} here, {_PAPER_DTYPE} in LLaVA's code", []).append(column.heading)
        if note := column.size_note(row):
            lines.append(note)
        if column.facts.paper_note:
            lines.append(f"{column.heading}: {column.facts.paper_note}")
        if "judge" in row:
            what = f"graded here by {_judge_name(row['judge'])}; the judge of the paper's figure is not known"
            found.setdefault(what, []).append(column.heading)
    return [*lines, *(f"{', '.join(places)}: {what}" for what, places in found.items())]


def _differences(table: Table) -> Iterator[tuple[str, str]]:
    """(where, what) pairs against the vanilla row."""
    for column in table.columns:
        base = table.vanilla.cells.get(column.task)
        for line in table.lines:
            cell = line.cells.get(column.task)
            if cell is None:
                continue
            where = f"{line.label} {column.heading}"
            for row in cell.rows:
                yield from ((where, what) for what in _own(column, row))
                if base is not None and line is not table.vanilla:
                    yield from ((where, what) for what in _against(row, base.row))


def _own(column: Column, row: Row) -> Iterator[str]:
    if note := column.size_note(row):
        yield note
    for name, meaning in _CIRCUMSTANCES:
        if row.get(name):
            yield f"{len(row[name])} {meaning}"
    if row.get("truncated"):
        yield f"{len(row['truncated'])} prompts were cut at the model's length"
    judge = row.get("judge") or {}
    if judge.get("missing"):
        yield f"{len(judge['missing'])} grades are missing"
    if judge.get("unread"):
        yield f"{len(judge['unread'])} grades could not be read, and count as the benchmark's tool has it"


def _against(row: Row, base: Row) -> Iterator[str]:
    for name in _SETTINGS:
        if row.get(name) != base.get(name):
            yield f"{name} is {_shown(row.get(name))}, vanilla's {_shown(base.get(name))}"
    own, other = row.get("judge"), base.get("judge")
    if own and other and not same_judge(row, base):
        yield f"judged by {_judge_name(own)}, vanilla by {_judge_name(other)}, so not compared"


def _judge_name(judge: dict[str, Any]) -> str:
    served = ", ".join(name for name in judge.get("served", []) if name != judge["model"])
    runs = f", {judge['runs']} runs" if judge.get("runs", 1) > 1 else ""
    return judge["model"] + (f" (served as {served})" if served else "") + runs


def _run_lines(table: Table) -> list[str]:
    """What differs between folders: model, versions, commit..."""
    base = table.runs[table.vanilla.folder]
    lines = []
    for folder, run in table.runs.items():
        for name in sorted(set(run) | set(base)):
            if run.get(name) != base.get(name):
                lines.append(f"{folder}: {name} is {_shown(run.get(name))}, vanilla's {_shown(base.get(name))}")
    return lines


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
