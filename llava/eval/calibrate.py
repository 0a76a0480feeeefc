"""`llava calibrate`: the threshold with which images keep so many tokens on average, each as many as it asks for.

Example:
    llava calibrate --model-path playground/tiny/model --compression coverage:49 --rule gain --images photos
        --output budget.json, then: llava eval ... --compression @budget.json   (on one line each)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import (
    CommandParser,
    add_model_flags,
    add_shared,
    loading_options,
    plain_errors,
    whole_number,
)
from llava.eval.data_place import DataPlace, add_data_flags
from llava.model.adaptive_budget import ADAPTIVE_RULES

if TYPE_CHECKING:
    from llava.images.source import ImageSource
    from llava.inference.calibration import Calibration

_LARGEST = 2  # times the mean, where --most is not given
_LEAST = 4  # times less than the mean, where --floor is not given


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser(
        "llava.eval.calibrate", "Find the threshold at which an adaptive budget keeps a wanted mean of tokens."
    )
    add_model_flags(parser)
    add_shared(parser, "--compression", required=True, help="a method at the wanted mean of a tile: 'coverage:49'")
    parser.add_argument(
        "--rule",
        choices=ADAPTIVE_RULES,
        default="gain",
        help="what decides: what one more token covers, what is left uncovered, the attention on the rest, or the "
        "effective rank (default gain)",
    )
    parser.add_argument("--most", type=whole_number(1), help="tokens a tile keeps at most (default: twice the mean)")
    parser.add_argument("--floor", type=whole_number(1), help="at least (default: a quarter of the mean)")
    parser.add_argument("--images", type=Path, nargs="+", metavar="PATH", help="images, and folders of them")
    parser.add_argument("--tasks", default="", help="or the images of these benchmarks; names separated by commas")
    add_data_flags(parser)
    parser.add_argument("--limit", type=whole_number(1), help="only the first so many images")
    add_shared(parser, "--batch-size", type=whole_number(1), default=8, help="images encoded at a time (default 8)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON for --compression @FILE of other commands")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    if bool(args.images) == bool(args.tasks):
        parser.error("give --images, files and folders, or --tasks, whose images are taken")
    from tqdm import tqdm

    from llava.eval.model_origin import config_of
    from llava.eval.tasks import TaskDataError
    from llava.inference import Inference
    from llava.inference.calibration import adaptive_budget, calibrate
    from llava.model.configuration import CompressionConfig
    from llava.model.image_rules import ImageRules

    with plain_errors():
        budget = CompressionConfig.parse(args.compression)
        if budget is None:
            raise ValueError("--compression none has no tokens to choose; name a method and its mean: 'coverage:49'")
        rules = ImageRules.from_config(config_of(args.model_path, args.model_base))
        most = args.most or max(budget.num_tokens, min(_LARGEST * budget.num_tokens, rules.num_patches))
        floor = args.floor or max(1, budget.num_tokens // _LEAST)
        rules.check(adaptive_budget(budget, args.rule, most, floor))  # before a large model is loaded
        try:
            images = _images(args)
        except TaskDataError as error:
            raise ValueError(str(error)) from error
        loading = loading_options(args)
        inference = Inference.load(args.model_path, args.model_base, conv_mode=args.conv_mode, **loading)
        shown = tqdm(images, desc="encoding", unit="image")
        found = calibrate(inference, budget, args.rule, shown, most=most, floor=floor, batch_size=args.batch_size)
        print("\n".join(_lines(found)))
        if args.output is not None:
            from llava.eval.whole_files import write_whole
            from llava.model.checkpoints.fingerprint import model_fingerprint

            named = {"path": str(args.model_path), "base": args.model_base and str(args.model_base)}
            model = {"model": named | {"fingerprint": model_fingerprint(args.model_path, args.model_base)}}
            print(f"written: {write_whole(args.output, json.dumps(to_json(found) | model, indent=2) + chr(10))}")
    return 0


def _images(args: argparse.Namespace) -> list[ImageSource]:
    """The images that the flags name, each once, the first `--limit` of them.

    Raises:
        ValueError: There is none.
        OSError: A path is not there.
        TaskDataError: A task's files are missing.
    """
    from llava.images.folders import IMAGE_TYPES, image_files
    from llava.images.source import source_key

    found = list(_of_tasks(args) if args.tasks else image_files(args.images))
    images = list({source_key(image): image for image in found}.values())[: args.limit]
    if not images:
        where = f"--tasks {args.tasks}" if args.tasks else f"--images {' '.join(map(str, args.images))}"
        raise ValueError(f"{where}: there is no image ({', '.join(IMAGE_TYPES)}) to calibrate on")
    return images


def _of_tasks(args: argparse.Namespace) -> Iterator[ImageSource]:
    from llava.eval.session import tasks_of

    place = DataPlace.of(args)
    for task in tasks_of(args):
        for sample in place.load(task).samples:
            yield from sample.images


def _lines(found: Calibration) -> Iterator[str]:
    """What is found, for people; the budget stands last."""
    from llava.results.words import counted

    adaptive = found.budget.adaptive
    assert adaptive is not None
    tiles, images = _figures(found.per_tile), _figures(found.per_image)
    yield f"{counted(len(found.per_image), 'image')}, {counted(len(found.per_tile), 'tile')}; rule {adaptive.rule}"
    yield f"threshold: {adaptive.threshold}"
    at_floor = sum(number == adaptive.floor for number in found.per_tile)
    at_most = sum(number == found.budget.num_tokens for number in found.per_tile)
    yield (
        f"tokens a tile: mean {tiles['mean']:.2f} (wanted {found.wanted}), p95 {tiles['p95']}, max {tiles['max']}; "
        f"{at_floor} at the floor {adaptive.floor}, {at_most} at the most {found.budget.num_tokens}"
    )
    if len(found.per_image) != len(found.per_tile):
        yield f"tokens an image: mean {images['mean']:.2f}, p95 {images['p95']}, max {images['max']}"
    if abs(tiles["mean"] - found.wanted) > 1:
        yield "the wanted mean cannot be had: too many tiles have equal levels, or nothing more to gain"
    yield str(found.budget)


def to_json(found: Calibration) -> dict[str, object]:
    """What `--output` holds; `compression` is what `--compression @FILE` reads."""
    return {
        "compression": str(found.budget),
        "wanted_mean": found.wanted,
        "tokens_a_tile": _figures(found.per_tile),
        "tokens_an_image": _figures(found.per_image),
        "images": len(found.per_image),
        "tiles": len(found.per_tile),
    }


def _figures(numbers: Sequence[int]) -> dict[str, float]:
    from llava.results.rows import token_counts

    counted = token_counts(numbers)
    return {"mean": counted["tokens"], "p95": counted["tokens_p95"], "max": counted["tokens_max"]}


if __name__ == "__main__":
    sys.exit(main())
