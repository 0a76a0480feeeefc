"""`python -m llava.eval.reproduce table1`: a table of the paper from nothing, beside the paper's own.

Preflight, data, a pilot, every budget, the judge, the table: run again, it goes on. Variables of the environment
override every path and size; `--list` names them.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from llava.command_line import CommandParser, plain_errors

if TYPE_CHECKING:
    from pathlib import Path

    from llava.eval.reproduce.plan import Plan


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser("llava.eval.reproduce", "Make a table of the paper again, from nothing, and compare.")
    parser.add_argument("table", nargs="?", help="table1 (1.5-7B), table10 (1.5-13B), table2 (NeXT-7B)...")
    parser.add_argument("--list", action="store_true", help="name the tables and the variables, and end")
    parser.add_argument("--dry-run", action="store_true", help="print preflight and plan, and end")
    parser.add_argument("--preflight", action="store_true", help="the preflight alone, before packages are installed")
    return parser


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: By default those of the program.
        environment: Variables; by default those of the process.

    Returns:
        0 if the table is written, 1 if something is wrong, with a line that says what.
    """
    parser = make_parser()
    args = parser.parse_args(arguments)
    variables = os.environ if environment is None else environment
    from llava.eval.reproduce.plan import VARIABLES, make_plan, read_recipe, recipe_names

    if args.list or args.table is None:
        for name in recipe_names():
            recipe = read_recipe(name)
            print(f"{name:8} {recipe.paper.caption}; {recipe.model}")
        print("\nVariables:\n" + "\n".join(f"  {name:12} {meaning}" for name, meaning in VARIABLES.items()))
        return 0 if args.list else 2
    with plain_errors(goes_on=True):
        plan = make_plan(args.table, variables)
        is_dry = args.dry_run or variables.get("DRY_RUN", "0") not in ("", "0")
        sound = _preflight(plan, will_install=args.preflight or is_dry)
        if is_dry and not args.preflight:
            _print_plan(plan)
        if not sound:
            print("error: the preflight fails; nothing was downloaded", file=sys.stderr)
            return 1
        if is_dry or args.preflight:
            return 0
        _run(plan)
    return 0


def _preflight(plan: Plan, *, will_install: bool) -> bool:
    """Prints what was found; whether one may go on."""
    from llava.eval.reproduce.preflight import gpus, lacking_packages, preflight

    data = None
    if not lacking_packages():
        from llava.eval.reproduce.data import look_at_data

        data = look_at_data(plan.tasks, plan.data, ask_sizes=plan.ask_sizes)
    checks = preflight(plan, gpus(), data, will_install=will_install)
    print(f"preflight of {plan.recipe.table}, nothing is downloaded yet:")
    print("\n".join(map(str, checks)))
    return not any(check.status == "fails" for check in checks)


def _print_plan(plan: Plan) -> None:
    from llava.eval.reproduce.steps import steps_of

    print("plan:")
    for number, step in enumerate(steps_of(plan), start=1):
        print(f"  {number}. {step.name}: {shlex.join(step.command)}")
    print(f"  then the report: {plan.output / 'reproduce.md'}, beside the paper's {plan.recipe.table}")


def _run(plan: Plan) -> None:
    from llava.eval.reproduce.data import number_of_questions
    from llava.eval.reproduce.deviation import reproduce, to_csv, to_markdown
    from llava.eval.reproduce.preflight import estimate
    from llava.eval.reproduce.running import MARKS, run_steps, what_lacks
    from llava.eval.reproduce.steps import Data, steps_of
    from llava.eval.whole_files import write_whole

    steps = steps_of(plan)
    before = [step for step in steps if step.name == "pilot" or isinstance(step.output, Data)]
    total, marks, lacks = len(steps), plan.output / MARKS, partial(what_lacks, plan)
    run_steps(before, marks, lacks, total)
    questions = {task: number_of_questions(task, plan.data) for task in plan.tasks}
    if (found := estimate(plan, questions)) is not None:
        print(f"time: {found}")
    run_steps(steps[len(before) :], marks, lacks, total, first=len(before) + 1)
    result = reproduce(plan)
    markdown = to_markdown(result)
    print(markdown)
    written: list[Path] = [
        write_whole(plan.output / f"reproduce.{name}", text)
        for name, text in (("md", markdown), ("csv", to_csv(result)))
    ]
    for path in written:
        print(f"written: {path}")
