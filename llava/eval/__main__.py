"""`python -m llava.eval`: tasks x budgets on one loaded model.

Example:
    python -m llava.eval --model-path playground/tiny/model --tasks tiny_vqa,tiny_pope --compression none
        --compression visionzip:41+8 --output-dir out   (on one line)
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

DATA_ROOT_VARIABLE = "LLAVA_EVAL_DATA"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m llava.eval", description="Evaluate a LLaVA under several budgets.")
    parser.add_argument("--list", action="store_true", help="name the tasks and end")
    parser.add_argument("--model-path", help="checkpoint, or a folder that holds only a tuned projector")
    parser.add_argument("--model-base", help="the checkpoint that a projector belongs to")
    parser.add_argument("--tasks", default="", help="names separated by commas, or 'all'")
    parser.add_argument(
        "--compression",
        action="append",
        metavar="METHOD:D+C",
        help="'none', 'visionzip:54+10', 'random:64'...; repeatable; default: what the model's config says",
    )
    parser.add_argument("--output-dir", type=Path, help="where answers/ and results.json go")
    parser.add_argument(
        "--data-root", type=Path, help=f"folder of the tasks' files (or {DATA_ROOT_VARIABLE}); default: each task's own"
    )
    parser.add_argument("--batch-size", type=_whole_number(1), default=8, help="questions a batch (default 8)")
    parser.add_argument("--limit", type=_whole_number(1), help="only the first so many questions of each task")
    parser.add_argument("--conv-mode", help="conversation template; default: from the model's config")
    parser.add_argument("--device", help="cpu, cuda...; default: the first GPU, else the CPU")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: the model's own")
    parser.add_argument(
        "--latency-repeats",
        type=_whole_number(0),
        default=11,
        help="vision_ms and prefill_ms are medians of so many; 0: not measured",
    )
    return parser


def _whole_number(least: int) -> Callable[[str], int]:
    """A flag's type: a whole number that is not too small."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return whole_number


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    from llava.eval.tasks import available_tasks, get_task

    if args.list:
        print("\n".join(f"{name:<16} {get_task(name).description}" for name in available_tasks()))
        return 0
    missing = [flag for flag in ("--model-path", "--tasks", "--output-dir") if not getattr(args, _field(flag))]
    if missing:
        parser.error(f"{', '.join(missing)}: needed unless --list is given")
    return _run(parser, args)


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    from llava.command_line import plain_errors
    from llava.eval.answers import RunKeyMismatch
    from llava.eval.fingerprint import model_fingerprint
    from llava.eval.results import format_table, read_results
    from llava.eval.runner import RunSettings, evaluate
    from llava.eval.tasks import TaskDataError, available_tasks, get_task
    from llava.inference import Inference
    from llava.model.configuration import CompressionConfig

    try:
        given = [name.strip() for name in args.tasks.split(",") if name.strip()]
        if not given:
            parser.error("--tasks names no task; --list tells which there are")
        names = available_tasks() if given == ["all"] else list(dict.fromkeys(given))
        tasks = [get_task(name) for name in names]
        compressions = [CompressionConfig.parse(text) for text in args.compression or []]
    except ValueError as error:
        parser.error(str(error))
    named_as_folder = next(path for path in (args.output_dir, *args.output_dir.absolute().parents) if path.exists())
    if not named_as_folder.is_dir():
        parser.error(f"--output-dir: {named_as_folder} is not a folder")
    results_path = args.output_dir / "results.json"
    with plain_errors():
        # What would end the run after hours, or after the loading of a large model, is told now.
        read_results(results_path)
        fingerprint = model_fingerprint(args.model_path, args.model_base, cache=args.output_dir / "model_hashes.json")
        read_results(results_path, fingerprint)
        inference = Inference.load(
            args.model_path, args.model_base, conv_mode=args.conv_mode, device=args.device, torch_dtype=args.dtype
        )
        own = inference.model.compression
        for compression in [*compressions, own]:
            inference.model.set_compression(compression)
    environment = os.environ.get(DATA_ROOT_VARIABLE)
    settings = RunSettings(
        output_dir=args.output_dir,
        fingerprint=fingerprint,
        data_root=args.data_root or (Path(environment) if environment else None),
        batch_size=args.batch_size,
        limit=args.limit,
        latency_repeats=args.latency_repeats,
    )
    try:
        results = evaluate(inference, tasks, compressions or [own], settings)
    except (TaskDataError, RunKeyMismatch) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(format_table([result.row for result in results]))
    for name, meaning in (("errors", "counted as wrong"), ("bad_rows", "left out")):
        for line in sorted({line for result in results for line in result.row[name]}):
            print(f"{meaning}: {line}")
    for row in (result.row for result in results if result.row["truncated"]):
        cut = f"{len(row['truncated'])} of {row['n']} prompts were cut (the model's tokenizer_model_max_length)"
        print(f"{row['task']} {row['compression']}: {cut}")
    print(f"written: {settings.results_path}")
    return 0


def _field(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


if __name__ == "__main__":
    sys.exit(main())
