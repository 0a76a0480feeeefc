"""`llava kept-tokens`: which patches of an image each budget keeps and which it merges, in words and as a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.command_line import (
    SEVERAL_BUDGETS,
    CommandParser,
    add_model_flags,
    add_shared,
    loading_options,
    plain_errors,
)

_INCHES = 3.4  # of a panel


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser("llava.analysis.draw_kept", __doc__)
    add_model_flags(parser)
    add_shared(parser, "--compression", **SEVERAL_BUDGETS)
    parser.add_argument("--image-file", required=True, help="path or URL; of a tiled image the first tile is drawn")
    parser.add_argument("--output", type=Path, default=Path("kept.png"), help="the picture (default: %(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = make_parser().parse_args(arguments)
    from llava.analysis.kept_tokens import draw_kept_tokens, find_kept_tokens
    from llava.images.source import fetch_image
    from llava.inference import Inference

    with plain_errors():
        from matplotlib.figure import Figure  # of the extra `demo`

        image = fetch_image(args.image_file)
        inference = Inference.load(args.model_path, args.model_base, **loading_options(args))
        budgets = args.compression or [inference.model.compression]
        kept = [find_kept_tokens(inference, image, budget) for budget in budgets]
        figure = Figure(figsize=(_INCHES * len(kept), _INCHES), layout="constrained")
        for axes, budget, tokens in zip(figure.subplots(1, len(kept), squeeze=False)[0], budgets, kept, strict=True):
            draw_kept_tokens(axes, tokens, f"{budget}\n{tokens.caption()}")
            print(f"{budget}: {tokens.caption()}")
        args.output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(args.output, dpi=150)
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
