"""`python -m llava.eval`: tasks x budgets on one loaded model.

Example:
    python -m llava.eval --model-path playground/tiny/model --tasks tiny_vqa,tiny_pope --compression none
        --compression visionzip:41+8 --output-dir out   (on one line)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import SEVERAL_BUDGETS, CommandParser, add_model_flags, add_shared
from llava.eval.data_place import DataPlace
from llava.eval.session import add_run_flags, check_flags, check_output, plain_stops, prepare, tasks_of, workers_of

if TYPE_CHECKING:
    from llava.eval.task_run import RunSettings, TaskResult
    from llava.eval.tasks import Task

_SHOWN = 10


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser("llava.eval", "Evaluate a LLaVA under several budgets.")
    parser.add_argument(
        "--list", action="store_true", help="tasks, their sizes, main scores and columns of the paper, and end"
    )
    add_model_flags(parser, required=False)
    parser.add_argument("--tasks", default="", help="names and my.json separated by commas, or 'all'")
    add_shared(parser, "--compression", **SEVERAL_BUDGETS)
    add_shared(parser, "--output-dir", type=Path, help="where answers/ and results.json go")
    add_shared(parser, "--image-store")
    add_run_flags(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    from llava.eval.tasks import available_tasks, get_task

    if args.list:
        _print_tasks([get_task(name) for name in available_tasks()])
        return 0
    check_flags(parser, args, ("--model-path", "--tasks", "--output-dir"), "--list")
    return _run(parser, args)


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    from llava.eval.runner import evaluate
    from llava.model.configuration import CompressionConfig

    try:
        tasks = tasks_of(args)
        given = [CompressionConfig.parse(text) for text in args.compression or []]
        compressions = list({str(budget): budget for budget in given}.values())  # one may be spelled in two ways
        place = DataPlace.of(args)
    except ValueError as error:
        parser.error(str(error))
    check_output(parser, args.output_dir)
    workers = workers_of(parser, args)
    left_out: dict[str, str] | None = {} if args.tasks.strip() == "all" else None
    try:
        with plain_stops(args):
            inference, settings = prepare(args, workers, place, tasks if left_out is None else [], compressions)
            own = [inference.model.compression]
            results = evaluate(inference, tasks, compressions or own, settings, left_out=left_out)
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        return end.code
    return _report(results, left_out or {}, settings) if workers.is_first else 0


def _print_tasks(tasks: Sequence[Task]) -> None:
    """A line a task: its size, its main score, and the paper's column that it stands for."""
    lines = [("task", "questions", "main score", "paper", "what it is")]
    for task in tasks:
        sizes = " or ".join(map(str, task.facts().published_sizes)) or "-"
        score = task.main_score if task.has_answers else "by its server"
        lines.append((task.name, sizes, score, task.paper_column or "-", task.description))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _report(results: Sequence[TaskResult], left_out: Mapping[str, str], settings: RunSettings) -> int:
    """Prints the table and the notes that belong to it; returns the exit status."""
    from llava.eval.results import format_table
    from llava.results.rows import main_value
    from llava.results.task_facts import facts_of

    rows = [result.row for result in results]
    if rows:
        print(format_table(rows))
    for name, meaning in (("errors", "counted as wrong"), ("bad_rows", "left out")):
        lines = sorted({line for row in rows for line in row[name]})
        for line in lines[:_SHOWN]:
            print(f"{meaning}: {line}")
        if len(lines) > _SHOWN:
            print(f"{meaning}: {len(lines) - _SHOWN} more, all of them in {settings.results_path}")
    for note in dict.fromkeys(row["size_note"] for row in rows if row["size_note"]):
        print(note)
    for row in (row for row in rows if row["truncated"]):
        cut = f"{len(row['truncated'])} of {row['n']} prompts were cut (the model's tokenizer_model_max_length)"
        print(f"{row['task']} {row['compression']}: {cut}")
    if any(main_value(row) is None and facts_of(row).judged for row in rows):
        print(f"not graded yet: python -m llava.eval.judge {settings.output_dir} --judge-url ... --judge-model ...")
    for row in (row for row in rows if row["submission"]):
        print(f"for the benchmark's server: {settings.output_dir / row['submission']}")
    for task, reason in left_out.items():
        print(f"not run: {task}: {reason}")
    if not rows:
        print("nothing is scored" + (": no task's data are here" if left_out else " yet"), file=sys.stderr)
        return int(bool(left_out) or settings.workers.must_score)
    print(f"written: {settings.results_path}")
    return 0
