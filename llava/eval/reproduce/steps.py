"""The steps from nothing to the table: each is a command, and done when what it should leave behind is whole."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llava.eval.reproduce.data import number_of_questions, why_missing
from llava.eval.reproduce.plan import Plan
from llava.eval.results import read_results, write_json
from llava.model.configuration import CompressionConfig
from llava.results.rows import main_value

MARKS = "steps.json"


@dataclass(frozen=True)
class Step:
    """A step.

    Attributes:
        name: For people and for its mark.
        command: What is run.
        lacks: What its output lacks, None if it is whole.
        may_be_there: Whether a whole output counts without a mark, as data that somebody else has fetched do.
    """

    name: str
    command: tuple[str, ...]
    lacks: Callable[[], str | None]
    may_be_there: bool = False


def budget_names(plan: Plan) -> dict[str, int | None]:
    """Budgets in their short form, all tokens first, with the tokens that the paper's rows say."""
    found: dict[str, int | None] = {"none": None}
    for tokens in plan.budgets:
        found[str(CompressionConfig.from_total(tokens, tiles=plan.recipe.tiles))] = tokens
    return found


def steps_of(plan: Plan) -> list[Step]:
    """All of them, in order, but for the report."""
    steps = [_data_step(plan, task) for task in plan.tasks]
    if plan.pilot:
        command = _evaluation(plan, "none", plan.output / "pilot", plan.pilot)
        steps.append(Step("pilot", command, partial(_lacks_rows, plan, "none", plan.output / "pilot", plan.pilot)))
    for budget in budget_names(plan):
        command = _evaluation(plan, budget, plan.output, plan.limit)
        lacks = partial(_lacks_rows, plan, budget, plan.output, plan.limit)
        steps.append(Step(f"evaluate {budget}", command, lacks))
    judged = [task for task in plan.tasks if task in ("mmvet", "llava_bench")]
    if judged and plan.judge_url:
        words = [str(plan.output), "--tasks", ",".join(judged), "--judge-url", plan.judge_url]
        words += ["--judge-model", plan.judge_model, "--data-root", str(plan.data)]
        command = (sys.executable, "-m", "llava.eval.judge", *words)
        steps.append(Step("judge", command, partial(_lacks_grades, plan, judged)))
    return steps


def run_steps(steps: Sequence[Step], marks: Path, total: int, first: int = 1) -> None:
    """Runs what is not done, and marks each step behind it.

    Args:
        steps: In order.
        marks: The file of marks.
        total: Steps of the whole plan.
        first: Number of the first of these.

    Raises:
        ValueError: A step has failed, or has not left behind what it should.
    """
    for number, step in enumerate(steps, start=first):
        title = f"step {number} of {total}, {step.name}"
        if (step.may_be_there or _is_marked(marks, step)) and step.lacks() is None:
            print(f"{title}: done before", flush=True)
            continue
        print(f"{title}: {shlex.join(step.command)}", flush=True)
        start = time.monotonic()
        status = subprocess.run(step.command, check=False).returncode
        if status:
            raise ValueError(f"{title} ended with status {status}; the same command goes on from here")
        if (lacks := step.lacks()) is not None:
            raise ValueError(f"{title} has run, and its output is not whole: {lacks}")
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


def _data_step(plan: Plan, task: str) -> Step:
    command = (sys.executable, "-m", "llava.eval.prepare", task, "--root", str(plan.data))
    return Step(f"data of {task}", command, partial(why_missing, task, plan.data), may_be_there=True)


def _evaluation(plan: Plan, budget: str, output: Path, limit: int | None) -> tuple[str, ...]:
    """A call of `llava eval`, under torchrun where there are several processes."""
    several = ("torchrun", "--standalone", "--nproc_per_node", str(plan.processes))
    words = [*(several if plan.processes > 1 else (sys.executable,)), "-m", "llava.eval", "--model-path", plan.model]
    flags = {
        "--model-base": plan.base,
        "--tasks": ",".join(plan.tasks),
        "--compression": budget,
        "--data-root": str(plan.data),
        "--output-dir": str(output),
        "--limit": "" if limit is None else str(limit),
        "--batch-size": "" if plan.batch is None else str(plan.batch),
        "--dtype": plan.dtype,
        "--device": plan.device,
        "--latency-repeats": "0",
    }
    return (*words, *(word for flag, value in flags.items() if value for word in (flag, value)))


def _lacks_rows(plan: Plan, budget: str, output: Path, limit: int | None) -> str | None:
    """Whether results.json has a row of the budget for every benchmark, over as many questions as there are."""
    try:
        rows = read_results(output / "results.json")
    except ValueError as error:
        return str(error)
    for task in plan.tasks:
        whole = number_of_questions(task, plan.data)
        wanted = whole if limit is None else min(limit, whole)
        if not any((row["task"], row["compression"], row["n"]) == (task, budget, wanted) for row in rows):
            return f"{output / 'results.json'} has no row of {task} under {budget} over {wanted} questions"
    return None


def _lacks_grades(plan: Plan, judged: Sequence[str]) -> str | None:
    rows = [row for row in read_results(plan.output / "results.json") if row["task"] in judged]
    ungraded = [row for row in rows if row["compression"] in budget_names(plan) and main_value(row) is None]
    return f"{ungraded[0]['task']} under {ungraded[0]['compression']} has no score" if ungraded else None
