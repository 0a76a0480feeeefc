"""A grid of budgets is asked by the engine of `llava eval`, and measured; for `llava compare` and `llava budget`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from llava.eval.compare.grid import Grid
from llava.eval.compare.timing import time_budgets
from llava.eval.data_place import DataPlace
from llava.eval.runner import evaluate
from llava.eval.session import plain_stops, prepare, workers_of
from llava.eval.tasks import Task


def ask_grid(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    place: DataPlace,
    tasks: Sequence[Task],
    grid: Grid,
    left_out: dict[str, str],
    *,
    time_again: bool = False,
) -> int | None:
    """Asks what is not answered yet, under every budget of a grid.

    Args:
        parser: Of the command.
        args: Of a parser with `add_run_flags`, `add_model_flags` and `--tasks`.
        place: Where the data are.
        tasks: The tasks.
        grid: The budgets.
        left_out: Of `--tasks all`, gets the tasks whose data are not here, with the reason.
        time_again: Measure milliseconds anew, also where the rows have them.

    Returns:
        None where this process is to write what was found; else the status that the command ends with.

    Raises:
        SystemExit: Something is wrong before anything is asked; with a line that says what.
    """
    try:
        with plain_stops(args):
            return None if _ask(parser, args, place, tasks, grid, left_out, time_again) else 0
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        return end.code


def _ask(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    place: DataPlace,
    tasks: Sequence[Task],
    grid: Grid,
    left_out: dict[str, str],
    time_again: bool,
) -> bool:
    """Whether all is answered, and this process is to say so."""
    workers = workers_of(parser, args)
    every = args.tasks.strip() == "all"
    inference, settings = prepare(args, workers, place, [] if every else tasks, grid.configs)
    asked = replace(settings, latency_repeats=0)  # measured below, all budgets in turn
    results = evaluate(inference, tasks, grid.configs, asked, left_out=left_out if every else None)
    if not workers.is_first or len(results) < len(grid.configs) * (len(tasks) - len(left_out)):
        return False
    there = [task for task in tasks if task.name not in left_out]
    time_budgets(inference, there, grid.configs, settings, again=time_again)
    return True
