"""How `llava compare` and `llava budget` begin: tasks, data and folder are checked, and the grid is made."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llava.command_line import plain_errors
from llava.eval.compare.grid import Grid, add_calibrated, make_grid
from llava.eval.compare.methods import Method
from llava.eval.data_place import DataPlace
from llava.eval.model_origin import config_of
from llava.eval.session import check_output, tasks_of
from llava.eval.tasks import Task


@dataclass(frozen=True)
class Begun:
    """What is to be asked.

    Attributes:
        tasks: The tasks.
        place: Where their data are.
        grid: The budgets.
    """

    tasks: list[Task]
    place: DataPlace
    grid: Grid


@dataclass(frozen=True)
class Offer:
    """What a grid is made of.

    Attributes:
        methods: Beside the baselines.
        budgets: Tokens a tile.
        seeds: Of the random baseline.
        alone: Nothing but the methods, neither VisionZip nor the baselines where they are not named.
    """

    methods: Sequence[Method]
    budgets: Sequence[int]
    seeds: int
    alone: bool = False


def begin(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    offer: Callable[[Any], Offer],
    check: Callable[[Task], None] = lambda task: None,
) -> Begun:
    """Checks what can be checked before a model is loaded, and prints the grid.

    Args:
        parser: Of the command.
        args: Of a parser with `add_run_flags`, `add_model_flags`, `--tasks`, `--calibrated` and `--output-dir`.
        offer: Gives methods and budgets for the model's config; may raise ValueError.
        check: Raises ValueError for a task that the command cannot take.

    Raises:
        SystemExit: Something is wrong; with a line that says what.
    """
    try:
        tasks = tasks_of(args)
        for task in tasks:
            check(task)
        place = DataPlace.of(args)
    except ValueError as error:
        parser.error(str(error))
    check_output(parser, args.output_dir)
    with plain_errors():
        grid = _grid(parser, args, offer)
    if int(os.environ.get("RANK", "0")) == 0:  # of several processes one speaks
        print("\n".join(grid.lines()))
    if len(grid.configs) == 1:
        parser.error("no method takes any of these budgets, for the reasons above")
    return Begun(tasks, place, grid)


def _grid(parser: argparse.ArgumentParser, args: argparse.Namespace, offer: Callable[[Any], Offer]) -> Grid:
    """The grid, told from the model's config alone."""
    config, has_clip = config_of(args.model_path, args.model_base), args.clip_text is not None
    try:
        made = offer(config)
        more = {"seeds": made.seeds, "has_clip": has_clip, "compiled": args.compile, "alone": made.alone}
        grid = make_grid(made.methods, made.budgets, config, **more)
        add_calibrated(grid, args.calibrated, config)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return grid
