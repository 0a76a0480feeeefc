"""`python -m llava.analysis.efficiency`: vision and prefill milliseconds of one question under several budgets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m llava.analysis.efficiency", description=__doc__)
    parser.add_argument("--model-path", required=True)
    parser.add_argument("--model-base")
    parser.add_argument("--image-file", nargs="+", required=True)
    parser.add_argument("--query", default="Describe the image.")
    parser.add_argument(
        "--compression",
        action="append",
        help="'visionzip:54+10', 'none'...; repeatable; default: what the model's config says",
    )
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=11, help="the median of so many runs is told (default 11)")
    parser.add_argument("--device")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = make_parser().parse_args(arguments)
    from llava.command_line import plain_errors
    from llava.images.source import open_image
    from llava.inference import Inference, Question
    from llava.inference.latency import compare_latency

    with plain_errors():
        images = [open_image(source) for source in args.image_file]
        inference = Inference.load(args.model_path, args.model_base, device=args.device, torch_dtype=args.dtype)
        budgets = args.compression or [inference.model.compression]
        question = Question(args.query, tuple(images))
        costs = compare_latency(inference, question, budgets, warmup=args.warmup, repeats=args.repeats)
    print(f"{'compression':<20} {'visual':>7} {'prompt':>7} {'vision ms':>10} {'prefill ms':>10}")
    for compression, cost in zip(budgets, costs, strict=True):
        counts = f"{cost.visual_tokens:>7} {cost.prompt_tokens:>7}"
        print(f"{compression or 'none'!s:<20} {counts} {cost.vision_ms:>10.2f} {cost.prefill_ms:>10.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
