"""`python -m llava.eval.judge`: a judge grades the answers of MM-Vet and LLaVA-Bench; scores go into results.json.

Example:
    python -m llava.eval.judge runs/7b --tasks mmvet,llava_bench --judge-url https://api.openai.com/v1
        --judge-model gpt-4-0613 --judge-runs 3   (on one line)

The judge's key is read from LLAVA_JUDGE_KEY or OPENAI_API_KEY, and from nowhere else. Replies are kept in
<output-dir>/judge_cache.jsonl: run again, the command asks only for what is missing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava.command_line import CommandParser, names, plain_errors, whole_number
from llava.eval.data_place import DataPlace, add_data_flags

_LONGEST_TIMEOUT = 86_400


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser(
        "llava.eval.judge", "Let a judge grade answers of llava.eval. Its key: LLAVA_JUDGE_KEY or OPENAI_API_KEY."
    )
    parser.add_argument("output_dir", type=Path, help="the --output-dir of llava.eval")
    parser.add_argument("--tasks", type=names, help="names separated by commas; default: those that have answers there")
    parser.add_argument("--judge-url", required=True, help="base of an OpenAI-compatible API, as http://host:8000/v1")
    parser.add_argument("--judge-model", required=True, help="the judge, as the endpoint calls it")
    parser.add_argument("--judge-runs", type=whole_number(1), default=1, help="gradings of each answer (default 1)")
    parser.add_argument("--judge-concurrency", type=whole_number(1), default=4, help="questions at a time (default 4)")
    parser.add_argument("--judge-timeout", type=_duration, default=120.0, help="seconds without a byte (default 120)")
    parser.add_argument("--judge-attempts", type=whole_number(1), default=6, help="sends of a question (default 6)")
    parser.add_argument(
        "--judge-extra",
        type=_json_object,
        default={},
        metavar="JSON",
        help='more fields of each request; null takes one out: \'{"max_tokens": null, "max_completion_tokens": 900}\'',
    )
    parser.add_argument("--judge-again", action="store_true", help="ask again if an earlier run's reply holds no grade")
    add_data_flags(parser)
    return parser


def _duration(text: str) -> float:
    value = float(text)
    if not 0 < value <= _LONGEST_TIMEOUT:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {_LONGEST_TIMEOUT} seconds, got {text}")
    return value


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    from llava.eval.judge.cache import JudgeCache
    from llava.eval.judge.client import JudgeClient, key_from_environment
    from llava.eval.judge.run import Judge, UngradedError, answered_tasks, judge_task
    from llava.eval.tasks import JudgedTask, TaskDataError, get_task

    with plain_errors(goes_on=True):
        data = DataPlace.of(args)
        tasks = [get_task(name) for name in args.tasks or answered_tasks(args.output_dir)]
        judged = [task for task in tasks if isinstance(task, JudgedTask)]
        for task in tasks:
            if task not in judged:
                parser.error(f"--tasks: {task.name} needs no judge, llava.eval has scored it")
        if not judged:
            print(f"nothing to grade: {args.output_dir} has no answers that need a judge")
            return 0
        client = JudgeClient(
            args.judge_url,
            args.judge_model,
            key_from_environment(),
            extra=args.judge_extra,
            timeout=args.judge_timeout,
            attempts=args.judge_attempts,
        )
        failures: list[str] = []
        with JudgeCache(args.output_dir / "judge_cache.jsonl") as cache:
            judge = Judge(client, cache, args.judge_runs, args.judge_concurrency, args.judge_again)
            for task in judged:
                try:
                    rows, ungraded = judge_task(task, args.output_dir, judge, data)
                except (TaskDataError, UngradedError) as error:  # the next task may have a score all the same
                    rows, ungraded = [], [str(error)]
                failures += ungraded
                for row in rows:
                    _print_row(row)
        if failures:
            raise ValueError("; ".join(failures))
    return 0


def _print_row(row: dict[str, Any]) -> None:
    from llava.results.rows import main_score
    from llava.results.task_facts import facts_of

    judge, facts = row["judge"], facts_of(row)
    spread = f", spread {judge['std'] * facts.factor:.2f} over {judge['runs']} runs" if judge["runs"] > 1 else ""
    score = facts.show(row[main_score(row)])
    print(f"{row['task']} {row['compression']}: {score}{spread} (n {row['n']}, {judge['model']})")
    meanings = {"missing": "are missing", "unread": "could not be read, and count as the benchmark's tool has it"}
    for name, meaning in meanings.items():
        if judge[name]:
            print(f"  {len(judge[name])} of {row['n'] * judge['runs']} grades {meaning}:")
            for line in judge[name]:
                print(f"  {line}")
