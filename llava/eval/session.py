"""What every command that evaluates does around `evaluate`: its flags, checks before the load, and errors in a line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import add_shared, loading_options, plain_errors, whole_number
from llava.eval.data_place import DataPlace, add_data_flags

if TYPE_CHECKING:
    from llava.eval.parallel import Workers
    from llava.eval.task_run import RunSettings
    from llava.eval.tasks import Task
    from llava.inference import Inference
    from llava.model.configuration import CompressionConfig

_ALL = "all"  # of `--tasks all`
_METRICS = ("exact", "contains", "vqa", "choice")  # those of llava.eval.metrics.own_answers, which need an import


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Adds what says how questions are asked, by how many processes, and where their data are."""
    add_data_flags(parser)
    add_shared(parser, "--batch-size", type=batch_size, help="questions a batch; default 'auto': what the memory takes")
    parser.add_argument(
        "--exact",
        action="store_true",
        help="one question at a time, nothing shared: in half precision a batch may change answers; slow",
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

    own = parser.add_argument_group("questions of your own", "--tasks my.json or my.jsonl")
    own.add_argument("--metric", choices=_METRICS, help="how rows are scored; default: by the field or shape of each")
    own.add_argument(
        "--question-tail",
        default="",
        metavar="TEXT",
        help="a line below each question without choices: 'Answer the question using a single word or phrase.'",
    )


def batch_size(text: str) -> int | None:
    """A flag's type: a number of questions, or None for 'auto'."""
    return None if text == "auto" else whole_number(1)(text)


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace, needed: Sequence[str], unless: str) -> None:
    """Refuses flags that lack or exclude each other; see `argparse.ArgumentParser.error`."""
    missing = [flag for flag in needed if not getattr(args, _field(flag))]
    if missing:
        parser.error(f"{', '.join(missing)}: needed unless {unless} is given")
    if args.exact and (args.compile or args.image_workers or args.batch_size not in (None, 1)):
        parser.error("--exact asks questions one by one: leave out --batch-size, --compile and --image-workers")
    if args.metric and getattr(args, "tables_only", False):
        parser.error("--metric scores anew: leave out --tables-only; what is answered is not asked again")


def check_output(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Fails now where the run would fail after hours."""
    from llava.eval.results import read_results

    named_as_folder = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not named_as_folder.is_dir():
        parser.error(f"--output-dir: {named_as_folder} is not a folder")
    with plain_errors():
        read_results(folder / "results.json")


def tasks_of(args: argparse.Namespace) -> list[Task]:
    """The tasks that `--tasks` names, each once, files of the user's own among them; what these are taken for is said.

    Args:
        args: With `tasks`; and with `metric` and `question_tail`, where the command has `add_run_flags`.

    Raises:
        ValueError: There are none, one is unknown, or a file cannot be read.
    """
    from llava.eval.tasks import TaskDataError, available_tasks, get_task
    from llava.eval.tasks.own_file import OwnFile, is_own_file, open_own_file

    given = list(dict.fromkeys(name.strip() for name in args.tasks.split(",") if name.strip()))
    if not given:
        raise ValueError("--tasks names no task; `llava eval --list` shows them, and my.json may be one of your own")
    metric, tail = getattr(args, "metric", None), getattr(args, "question_tail", "")
    tasks: dict[str, Task] = {}
    for name in available_tasks() if given == [_ALL] else given:
        try:
            task = open_own_file(name, metric, tail) if is_own_file(name) else get_task(name)
        except TaskDataError as error:
            raise ValueError(f"--tasks: {error}") from None
        if task.name in tasks:
            raise ValueError(f"--tasks: {name} holds the same questions as another file: ask them apart")
        tasks[task.name] = task
    own = [task for task in tasks.values() if isinstance(task, OwnFile)]
    if (metric or tail) and not own:
        raise ValueError("--metric and --question-tail are for questions of your own, as --tasks my.json")
    if int(os.environ.get("RANK", "0")) == 0:  # of several processes one speaks
        for line in (line for task in own for line in task.lines()):
            print(line)
    return list(tasks.values())


def workers_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Workers:
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


def prepare(
    args: argparse.Namespace,
    workers: Workers,
    place: DataPlace,
    tasks: Sequence[Task],
    compressions: Sequence[CompressionConfig | None],
) -> tuple[Inference, RunSettings]:
    """Checks what can be checked before a large model is loaded, and loads it; every budget is tried on it.

    Args:
        args: Of a parser with `add_run_flags` and `add_model_flags`.
        workers: This process among those that share the work; the first checks for all.
        place: Where the data are.
        tasks: Those whose files must be there.
        compressions: The budgets.

    Raises:
        SystemExit: Status 1 with a line that says what is wrong.
    """
    from llava.eval.model_origin import origin_of
    from llava.eval.results import read_results
    from llava.eval.task_run import RunSettings
    from llava.model.checkpoints.fingerprint import model_fingerprint

    with plain_errors():
        fingerprint = ""
        if workers.is_first:
            cache = args.output_dir / "model_hashes.json"
            fingerprint = model_fingerprint(args.model_path, args.model_base, cache=cache)
            read_results(args.output_dir / "results.json", fingerprint)
            place.check(tasks)
        fingerprint = str(workers.gather(fingerprint)[0])
        inference = _load(args, compressions)
        tuned_for = origin_of(args.model_path).tuned_for
    settings = RunSettings(
        output_dir=args.output_dir,
        fingerprint=fingerprint,
        data_root=place.root,
        batch_size=args.batch_size,
        limit=args.limit,
        latency_repeats=0 if _stores_of(args) else args.latency_repeats,  # which opens pixels
        progress=workers.rank == 0 or not workers.waits,
        workers=workers,
        source=place.source,
        image_root=place.image_root,
        tuned_for=tuned_for,
    )
    return inference, settings


def _load(args: argparse.Namespace, compressions: Sequence[CompressionConfig | None]) -> Inference:
    """The model; every budget is tried on it, and on the stores of images."""
    from llava.inference import Inference
    from llava.model.own_device import own_device

    inference = Inference.load(
        args.model_path,
        args.model_base,
        conv_mode=args.conv_mode,
        compile=args.compile,
        image_workers=args.image_workers,
        exact=args.exact,
        image_store=_stores_of(args),
        **loading_options(args) | {"device": own_device(args.device)},
    )
    own = inference.model.compression
    for compression in compressions or [own]:
        inference.model.set_compression(compression)
        inference.stored_images()
    inference.model.set_compression(own)
    if inference.model.model.ignores_clip([*compressions, own]) and int(os.environ.get("RANK", "0")) == 0:
        print(f"--clip-text {args.clip_text} is not used: no budget reads questions by CLIP", file=sys.stderr)
    return inference


def _stores_of(args: argparse.Namespace) -> list[str]:
    """The stores of images, of a command that takes them."""
    return getattr(args, "image_store", None) or []


@contextmanager
def plain_stops(args: argparse.Namespace) -> Iterator[None]:
    """Around a run: whatever ends it is a line and an exit status, and the group of processes is left.

    Raises:
        SystemExit: Status 1, or 130 where a user has stopped it.
    """
    import torch

    from llava.eval.answers import AnswersKeyMismatch
    from llava.eval.parallel import leave_group
    from llava.eval.task_run import LostAnswersError
    from llava.eval.tasks import TaskDataError
    from llava.inference.first_logits import NotFiniteError
    from llava.locks import InUseError

    try:
        yield
    except (TaskDataError, LostAnswersError, AnswersKeyMismatch, InUseError, NotFiniteError) as error:
        raise _stopped(f"error: {error}", 1) from error
    except OSError as error:
        raise _stopped(f"error: {error}; what is answered is kept", 1) from error
    except torch.OutOfMemoryError as error:
        advice = "a single question does not fit" if args.batch_size in (None, 1) else "give --batch-size auto"
        raise _stopped(f"error: {str(error).splitlines()[0]}: {advice}; what is answered is kept", 1) from error
    except KeyboardInterrupt:
        raise _stopped("stopped; the same command goes on from here", 130) from None
    finally:
        leave_group()


def _stopped(line: str, status: int) -> SystemExit:
    print(line, file=sys.stderr)
    return SystemExit(status)


def _field(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
