"""The steps from nothing to the table, each a command. It needs no package: a plan can be printed without any."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from llava.eval.reproduce.plan import JUDGED, Plan
from llava.model.configuration import CompressionConfig


@dataclass(frozen=True)
class Data:
    """A benchmark's files, whoever has fetched them."""

    task: str


@dataclass(frozen=True)
class Rows:
    """Rows of results.json under a budget, over so many questions of each benchmark; None for all."""

    budget: str
    folder: Path
    limit: int | None


@dataclass(frozen=True)
class Grades:
    """Scores of judged benchmarks."""

    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """A step.

    Attributes:
        name: For people and for its mark.
        command: What is run.
        output: What it leaves behind.
    """

    name: str
    command: tuple[str, ...]
    output: Data | Rows | Grades


def budget_names(plan: Plan) -> dict[str, int | None]:
    """Budgets in their short form, all tokens first, with the tokens that the paper's rows say."""
    found: dict[str, int | None] = {"none": None}
    for tokens in plan.budgets:
        found[str(CompressionConfig.from_total(tokens, tiles=plan.recipe.tiles))] = tokens
    return found


def steps_of(plan: Plan) -> list[Step]:
    """All of them, in order, but for the report."""
    prepare = (sys.executable, "-m", "llava.eval.prepare")
    steps = [Step(f"data of {task}", (*prepare, task, "--root", str(plan.data)), Data(task)) for task in plan.tasks]
    if plan.pilot:
        steps.append(_evaluation(plan, "pilot", Rows("none", plan.output / "pilot", plan.pilot)))
    for budget in budget_names(plan):
        steps.append(_evaluation(plan, f"evaluate {budget}", Rows(budget, plan.output, plan.limit)))
    judged = tuple(task for task in plan.tasks if task in JUDGED)
    if judged and plan.judge_url:
        words = [str(plan.output), "--tasks", ",".join(judged), "--judge-url", plan.judge_url]
        words += ["--judge-model", plan.judge_model, "--data-root", str(plan.data)]
        steps.append(Step("judge", (sys.executable, "-m", "llava.eval.judge", *words), Grades(judged)))
    return steps


def _evaluation(plan: Plan, name: str, rows: Rows) -> Step:
    """A call of `llava eval`, under torchrun where there are several processes."""
    several = ("torchrun", "--standalone", "--nproc_per_node", str(plan.processes))
    words = [*(several if plan.processes > 1 else (sys.executable,)), "-m", "llava.eval", "--model-path", plan.model]
    flags = {
        "--model-base": plan.base,
        "--tasks": ",".join(plan.tasks),
        "--compression": rows.budget,
        "--data-root": str(plan.data),
        "--output-dir": str(rows.folder),
        "--limit": "" if rows.limit is None else str(rows.limit),
        "--batch-size": "" if plan.batch is None else str(plan.batch),
        "--dtype": plan.dtype,
        "--device": plan.device,
        "--latency-repeats": "0",
    }
    return Step(name, (*words, *(word for flag, value in flags.items() if value for word in (flag, value))), rows)
