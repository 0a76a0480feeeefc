"""`python -m llava.analysis.efficiency`: vision and prefill milliseconds of one question under several budgets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llava.command_line import (
    SEVERAL_BUDGETS,
    CommandParser,
    add_model_flags,
    add_shared,
    loading_options,
    plain_errors,
    unicode_text,
)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser("llava.analysis.efficiency", __doc__)
    add_model_flags(parser)
    add_shared(parser, "--compression", **SEVERAL_BUDGETS)
    parser.add_argument("--image-file", nargs="+", required=True, help="paths or URLs")
    parser.add_argument(
        "--query", type=unicode_text, default="Describe the image.", help="the question (default: %(default)s)"
    )
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=11, help="runs for each median (default 11)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = make_parser().parse_args(arguments)
    from llava.images.source import fetch_image
    from llava.inference import Inference, Question
    from llava.inference.latency import compare_latency

    with plain_errors():
        images = [fetch_image(source) for source in args.image_file]
        loading = loading_options(args)
        inference = Inference.load(args.model_path, args.model_base, conv_mode=args.conv_mode, **loading)
        budgets = args.compression or [inference.model.compression]
        question = Question(args.query, tuple(images))
        costs = compare_latency(inference, question, budgets, warmup=args.warmup, repeats=args.repeats)
    print(f"{'compression':<20} {'visual':>7} {'prompt':>7} {'vision ms':>10} {'prefill ms':>10}")
    for compression, cost in zip(budgets, costs, strict=True):
        counts = f"{cost.visual_tokens:>7g} {cost.prompt_tokens:>7}"
        print(f"{compression or 'none'!s:<20} {counts} {cost.vision_ms:>10.2f} {cost.prefill_ms:>10.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
