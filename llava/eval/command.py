"""`python -m llava.eval`: tasks x budgets on one loaded model.

Example:
    python -m llava.eval --model-path playground/tiny/model --tasks tiny_vqa,tiny_pope --compression none
        --compression visionzip:41+8 --output-dir out   (on one line)
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import (
    SEVERAL_BUDGETS,
    CommandParser,
    add_model_flags,
    add_shared,
    loading_options,
    plain_errors,
    whole_number,
)
from llava.eval.data_place import DataPlace, add_data_flags

if TYPE_CHECKING:
    from llava.eval.parallel import Workers
    from llava.eval.task_run import RunSettings, TaskResult
    from llava.eval.tasks import Task
    from llava.inference import Inference
    from llava.model.configuration import CompressionConfig

_SHOWN = 10


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser("llava.eval", "Evaluate a LLaVA under several budgets.")
    parser.add_argument(
        "--list", action="store_true", help="tasks, their sizes, main scores and columns of the paper, and end"
    )
    add_model_flags(parser, required=False)
    parser.add_argument("--tasks", default="", help="names separated by commas, or 'all'")
    add_shared(parser, "--compression", **SEVERAL_BUDGETS)
    add_shared(parser, "--output-dir", type=Path, help="where answers/ and results.json go")
    add_data_flags(parser)
    add_shared(
        parser, "--batch-size", type=_batch_size, help="questions a batch; default 'auto': what the memory takes"
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="one question at a time, nothing shared: in half precision a batch may answer otherwise; slow",
    )
    parser.add_argument("--limit", type=whole_number(1), help="only the first so many questions of each task")
    parser.add_argument(
        "--compile", action="store_true", help="compile the vision half and decoding; the first batches wait"
    )
    parser.add_argument(
        "--image-workers",
        type=whole_number(0),
        help="processes that prepare images ahead; default: by the cores on a GPU, none on a CPU",
    )
    parser.add_argument(
        "--latency-repeats",
        type=whole_number(0),
        default=11,
        help="vision_ms and prefill_ms are medians of so many; 0: not measured",
    )
    chunks = parser.add_argument_group(
        "several processes", "torchrun and accelerate launch need no flag; processes that do not know of each other do"
    )
    chunks.add_argument("--num-chunks", type=whole_number(1), help="how many processes share the questions")
    chunks.add_argument("--chunk-idx", type=whole_number(0), help="which of them this is; the last to end scores")
    chunks.add_argument("--merge", action="store_true", help="ask nothing: merge the chunks' answers and score them")
    return parser


def _batch_size(text: str) -> int | None:
    """A flag's type: a number of questions, or None for 'auto'."""
    return None if text == "auto" else whole_number(1)(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    from llava.eval.tasks import available_tasks, get_task

    if args.list:
        _print_tasks([get_task(name) for name in available_tasks()])
        return 0
    missing = [flag for flag in ("--model-path", "--tasks", "--output-dir") if not getattr(args, _field(flag))]
    if missing:
        parser.error(f"{', '.join(missing)}: needed unless --list is given")
    if args.exact and (args.compile or args.image_workers or args.batch_size not in (None, 1)):
        parser.error("--exact asks questions one by one: leave out --batch-size, --compile and --image-workers")
    return _run(parser, args)


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    import torch

    from llava.eval.answers import AnswersKeyMismatch
    from llava.eval.parallel import leave_group
    from llava.eval.runner import evaluate
    from llava.eval.task_run import LostAnswersError, RunSettings
    from llava.eval.tasks import TaskDataError, get_task
    from llava.inference.first_logits import NotFiniteError
    from llava.locks import InUseError
    from llava.model.configuration import CompressionConfig

    try:
        names = _task_names(args.tasks)
        tasks = [get_task(name) for name in names]
        given = [CompressionConfig.parse(text) for text in args.compression or []]
        compressions = list({str(budget): budget for budget in given}.values())  # one may be spelled in two ways
        place = DataPlace.of(args)
    except ValueError as error:
        parser.error(str(error))
    _check_output(parser, args.output_dir)
    workers = _workers(parser, args)
    runs_all = args.tasks.strip() == "all"
    try:
        with plain_errors():
            fingerprint = _check_first(args, workers, place, [] if runs_all else tasks)
            inference = _load(args, compressions)
        settings = RunSettings(
            output_dir=args.output_dir,
            fingerprint=fingerprint,
            data_root=place.root,
            batch_size=args.batch_size,
            limit=args.limit,
            latency_repeats=args.latency_repeats,
            progress=workers.rank == 0 or not workers.waits,
            workers=workers,
            source=place.source,
            image_root=place.image_root,
        )
        left_out: dict[str, str] | None = {} if runs_all else None
        own = [inference.model.compression]
        results = evaluate(inference, tasks, compressions or own, settings, left_out=left_out)
    except (TaskDataError, LostAnswersError, AnswersKeyMismatch, InUseError, NotFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}; what is answered is kept", file=sys.stderr)
        return 1
    except torch.OutOfMemoryError as error:
        advice = "a single question does not fit" if args.batch_size in (None, 1) else "give --batch-size auto"
        print(f"error: {str(error).splitlines()[0]}: {advice}; what is answered is kept", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        leave_group()
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


def _check_output(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Fails now where the run would fail after hours."""
    from llava.eval.results import read_results

    named_as_folder = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not named_as_folder.is_dir():
        parser.error(f"--output-dir: {named_as_folder} is not a folder")
    with plain_errors():
        read_results(folder / "results.json")


def _task_names(text: str) -> list[str]:
    """Names of tasks, each once.

    Raises:
        ValueError: There are none.
    """
    from llava.eval.tasks import available_tasks

    given = [name.strip() for name in text.split(",") if name.strip()]
    if not given:
        raise ValueError("--tasks names no task; --list shows them")
    return available_tasks() if given == ["all"] else list(dict.fromkeys(given))


def _workers(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Workers:
    """This process among others, as flags or the launcher say."""
    from llava.eval.parallel import Chunk, Merge, join_group

    if args.num_chunks is None:
        if args.chunk_idx is not None or args.merge:
            parser.error("--chunk-idx and --merge go with --num-chunks")
        return join_group()
    if args.merge == (args.chunk_idx is not None):
        parser.error("--num-chunks needs --chunk-idx, or --merge once all chunks are done, and not both")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        parser.error("--num-chunks is for processes that no launcher has started; leave it out under torchrun")
    if args.merge:
        return Merge(0, args.num_chunks)
    if args.chunk_idx >= args.num_chunks:
        parser.error(f"--chunk-idx must be below --num-chunks, got {args.chunk_idx} of {args.num_chunks}")
    return Chunk(args.chunk_idx, args.num_chunks)


def _check_first(args: argparse.Namespace, workers: Workers, place: DataPlace, tasks: Sequence[Task]) -> str:
    """Checks what can be checked before a large model is loaded; one process does it for all.

    Returns:
        The model's fingerprint.

    Raises:
        AnswersKeyMismatch: The output folder holds another model's results.
        TaskDataError: The data of one of the tasks are missing.
    """
    from llava.eval.results import read_results
    from llava.model.checkpoints.fingerprint import model_fingerprint

    fingerprint = ""
    if workers.is_first:
        fingerprint = model_fingerprint(args.model_path, args.model_base, cache=args.output_dir / "model_hashes.json")
        read_results(args.output_dir / "results.json", fingerprint)
        place.check(tasks)
    return str(workers.gather(fingerprint)[0])


def _load(args: argparse.Namespace, compressions: Sequence[CompressionConfig | None]) -> Inference:
    """The model; every budget is tried on it."""
    from llava.eval.parallel import own_device
    from llava.inference import Inference

    inference = Inference.load(
        args.model_path,
        args.model_base,
        conv_mode=args.conv_mode,
        compile=args.compile,
        image_workers=args.image_workers,
        exact=args.exact,
        **loading_options(args) | {"device": own_device(args.device)},
    )
    own = inference.model.compression
    for compression in [*compressions, own]:
        inference.model.set_compression(compression)
    return inference


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


def _field(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
