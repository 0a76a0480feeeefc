"""Runs steps: each is done when what it should leave behind is whole, and a mark says that its command has ended."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from llava.eval.reproduce.data import number_of_questions, why_missing
from llava.eval.reproduce.plan import Plan
from llava.eval.reproduce.steps import Data, Grades, Rows, Step, budget_names
from llava.eval.results import read_results, write_json
from llava.results.rows import main_value

MARKS = "steps.json"
Lacks: TypeAlias = Callable[[Step], str | None]


def what_lacks(plan: Plan, step: Step) -> str | None:
    """What the output of a step of a plan lacks; None if it is whole."""
    output = step.output
    if isinstance(output, Data):
        return why_missing(output.task, plan.data)
    return _lacks_rows(plan, output) if isinstance(output, Rows) else _lacks_grades(plan, output)


def run_steps(steps: Sequence[Step], marks: Path, lacks: Lacks, total: int, first: int = 1) -> None:
    """Runs what is not done, and marks each step behind it.

    Args:
        steps: In order.
        marks: The file of marks.
        lacks: What the output of a step lacks, None if it is whole.
        total: Steps of the whole plan.
        first: Number of the first of these.

    Raises:
        ValueError: A step has failed, or has not left behind what it should.
    """
    for number, step in enumerate(steps, start=first):
        title = f"step {number} of {total}, {step.name}"
        may_be_there = isinstance(step.output, Data)  # fetched by whomever
        if (may_be_there or _is_marked(marks, step)) and lacks(step) is None:
            print(f"{title}: done before", flush=True)
            continue
        print(f"{title}: {shlex.join(step.command)}", flush=True)
        start = time.monotonic()
        status = subprocess.run(step.command, check=False).returncode
        if status:
            raise ValueError(f"{title} ended with status {status}; the same command goes on from here")
        if (lacking := lacks(step)) is not None:
            raise ValueError(f"{title} has run, and its output is not whole: {lacking}")
        _mark(marks, step, time.monotonic() - start)


def read_marks(marks: Path) -> dict[str, dict[str, object]]:
    """The steps that were done; none where the file is missing or damaged: their outputs are then made again."""
    try:
        content = json.loads(marks.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_marked(marks: Path, step: Step) -> bool:
    """Whether the same command has run to its end."""
    found = read_marks(marks).get(step.name)
    return isinstance(found, dict) and found.get("command") == list(step.command)


def _mark(marks: Path, step: Step, seconds: float) -> None:
    done = read_marks(marks) | {step.name: {"command": list(step.command), "seconds": round(seconds, 1)}}
    write_json(marks, done)


def _lacks_rows(plan: Plan, rows: Rows) -> str | None:
    """Whether results.json has a row of the budget for every benchmark, over as many questions as there are."""
    file = rows.folder / "results.json"
    try:
        found = {(row["task"], row["compression"], row["n"]) for row in read_results(file)}
    except ValueError as error:
        return str(error)
    for task in plan.tasks:
        whole = number_of_questions(task, plan.data)
        wanted = whole if rows.limit is None else min(rows.limit, whole)
        if (task, rows.budget, wanted) not in found:
            return f"{file} has no row of {task} under {rows.budget} over {wanted} questions"
    return None


def _lacks_grades(plan: Plan, grades: Grades) -> str | None:
    rows = [row for row in read_results(plan.output / "results.json") if row["task"] in grades.tasks]
    ungraded = [row for row in rows if row["compression"] in budget_names(plan) and main_value(row) is None]
    return f"{ungraded[0]['task']} under {ungraded[0]['compression']} has no score" if ungraded else None
