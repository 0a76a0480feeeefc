"""`llava doctor RUN`: which questions a budget breaks: a page, a JSON file, an exit status for CI.

Example:
    llava doctor runs/7b --fail-under 0.97
    llava doctor runs/7b --compression visionzip:54+10 --model-path liuhaotian/llava-v1.5-7b
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import (
    SEVERAL_BUDGETS,
    CommandParser,
    add_model_flags,
    add_shared,
    loading_options,
    names,
    plain_errors,
    whole_number,
)
from llava.eval.data_place import DataPlace, add_data_flags

if TYPE_CHECKING:
    from llava.eval.doctor.diagnosis import Diagnosis
    from llava.eval.doctor.examine import Wanted
    from llava.eval.doctor.pictures import Card

_MOST = 20


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser("llava.eval.doctor", "Say which questions a budget breaks, from the answers of a run.")
    parser.add_argument("run", type=Path, help="output folder of llava eval or compare, with answers of all tokens too")
    add_shared(parser, "--compression", **{**SEVERAL_BUDGETS, "help": "examine only this budget; repeatable"})
    parser.add_argument("--tasks", type=names, default=[], help="examine only these, separated by commas")
    add_shared(parser, "--output-dir,--output", type=Path, help="folder of doctor.html and doctor.json; default: RUN")
    add_data_flags(parser)
    parser.add_argument(
        "--coco-instances",
        type=Path,
        metavar="FILE",
        help="COCO's instances_val2014.json: how large the object is that POPE asks about",
    )
    parser.add_argument(
        "--resamples", type=whole_number(0), default=2_000, help="of the bootstrap; 0: no intervals (default 2000)"
    )
    parser.add_argument(
        "--pictures", type=_pictures, default=_MOST, help=f"flipped questions shown, {_MOST} at most (default {_MOST})"
    )
    gate = parser.add_argument_group("for CI")
    gate.add_argument(
        "--fail-under", type=_share, metavar="SHARE", help="end with status 1 if less is kept, such as 0.97"
    )
    gate.add_argument("--fail-on", choices=("task", "mean"), help="each task (default), or each budget's mean of them")
    gate.add_argument(
        "--fail-lower-bound", action="store_true", help="the lower end of the 95 %% interval must reach it too"
    )
    add_model_flags(parser, required=False)
    parser.epilog = "With --model-path, the model of the run, the patches that were kept stand beside what flipped."
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    if (args.fail_lower_bound or args.fail_on) and args.fail_under is None:
        parser.error(f"{'--fail-lower-bound' if args.fail_lower_bound else '--fail-on'} goes with --fail-under")
    if args.fail_lower_bound and not args.resamples:
        parser.error("--fail-lower-bound needs intervals: leave out --resamples 0")
    with plain_errors():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    from llava.eval.doctor.examine import examine
    from llava.eval.doctor.files import to_html, to_json
    from llava.eval.doctor.gate import TASK, failures
    from llava.eval.doctor.words import summary
    from llava.eval.results import write_json
    from llava.eval.whole_files import write_whole

    diagnosis = examine(_wanted(args))
    failed = None
    if args.fail_under is not None:
        failed = failures(diagnosis, args.fail_under, of=args.fail_on or TASK, lower_bound=args.fail_lower_bound)
    cards = _cards(args, diagnosis)
    print(summary(diagnosis))
    for note in diagnosis.notes:
        print(f"note: {note}")
    for command in diagnosis.advice:
        print(f"to compare with plain down-sampling: {command}")
    folder: Path = args.output_dir or args.run
    gate = "" if failed is None else _gate_in_words(args)
    write_json(folder / "doctor.json", to_json(diagnosis, failed))
    write_whole(folder / "doctor.html", to_html(diagnosis, cards, failed, gate))
    print(f"written: {folder / 'doctor.html'}\nwritten: {folder / 'doctor.json'}")
    for line in failed or []:
        print(f"FELL: {line}", file=sys.stderr)
    return int(bool(failed))


def _wanted(args: argparse.Namespace) -> Wanted:
    from llava.eval.answers_key import compression_name
    from llava.eval.doctor.examine import Wanted
    from llava.eval.doctor.sizes import ObjectSizes
    from llava.model.configuration import CompressionConfig

    if args.coco_instances is not None and not args.coco_instances.is_file():
        raise ValueError(f"--coco-instances {args.coco_instances}: no such file")
    return Wanted(
        folder=args.run,
        data=DataPlace.of(args),
        budgets=list(dict.fromkeys(compression_name(CompressionConfig.parse(text)) for text in args.compression or [])),
        tasks=args.tasks,
        resamples=args.resamples,
        sizes=ObjectSizes(args.coco_instances),
        model=args.model_path or "MODEL",
    )


def _cards(args: argparse.Namespace, diagnosis: Diagnosis) -> list[Card]:
    """Flipped questions with their pictures, and with the patches where a model is named."""
    from llava.eval.doctor.pictures import choose_flips, make_cards

    chosen = choose_flips(diagnosis, args.pictures)
    if args.model_path is None or not chosen:
        return make_cards(chosen, None)
    from llava.inference import Inference
    from llava.model.checkpoints.fingerprint import model_fingerprint

    cache = args.run / "model_hashes.json"
    fingerprint = model_fingerprint(args.model_path, args.model_base, cache=cache if cache.exists() else None)
    if fingerprint != diagnosis.run["model"]:
        diagnosis.notes.append(
            f"the patches are those that {args.model_path} keeps (fingerprint {fingerprint}); the answers are from a "
            f"model with fingerprint {diagnosis.run['model']}"
        )
    inference = Inference.load(args.model_path, args.model_base, conv_mode=args.conv_mode, **loading_options(args))
    return make_cards(chosen, inference)


def _gate_in_words(args: argparse.Namespace) -> str:
    what = "the mean over tasks" if args.fail_on == "mean" else "every task"
    bound = ", and so must the lower end of its interval" if args.fail_lower_bound else ""
    return f"{what} must keep {100 * args.fail_under:g} % of all tokens{bound}"


def _share(text: str) -> float:
    """A flag's type: a share above 0, 1 at most."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1; 97 % is 0.97")
    return value


def _pictures(text: str) -> int:
    """A flag's type: a number of pictures that a page can hold."""
    value = whole_number(0)(text)
    if value > _MOST:
        raise argparse.ArgumentTypeError(f"at most {_MOST}, got {text}; `llava report --diff` shows more")
    return value
