"""`llava kept-tokens`: which patches of images each budget keeps and which it merges, in words and as a picture.

Example:
    llava kept-tokens --model-path playground/tiny/model --image-file a.png b.png --compression visionzip:41+8
        --compression random:49 --output kept.svg --json kept.json   (on one line)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.command_line import (
    SEVERAL_BUDGETS,
    CommandParser,
    add_model_flags,
    add_shared,
    loading_options,
    plain_errors,
    unicode_text,
)

if TYPE_CHECKING:
    from llava.analysis.kept_tokens.find import KeptTokens

_INCHES = 2.25  # of a panel: three make a page's width


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser(
        "llava.analysis.kept_tokens",
        "Draw which patches of images each budget keeps (outlined) and which it merges (tinted by the token that took "
        "them, with the number of tokens in it); what is dropped is dark.",
    )
    add_model_flags(parser)
    add_shared(parser, "--compression", **SEVERAL_BUDGETS)
    parser.add_argument(
        "--image-file", nargs="+", required=True, help="paths or URLs, a row each; of a tiled image the first tile"
    )
    parser.add_argument("--query", type=unicode_text, default="", help="the question, for methods that choose by it")
    parser.add_argument(
        "--output", type=Path, default=Path("kept.png"), help="the picture: .png, .svg or .pdf (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write which patches, as JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = make_parser().parse_args(arguments)
    with plain_errors():
        from llava.analysis.kept_tokens.find import find_kept_tokens
        from llava.analysis.paper_figure import check_picture, paper_style
        from llava.images.source import fetch_image, name_of
        from llava.inference import Inference

        images = [fetch_image(source) for source in args.image_file]
        output = args.output if args.output.suffix else args.output.with_suffix(".png")
        check_picture(output)
        with paper_style():  # a missing matplotlib is told before the model is loaded
            inference = Inference.load(args.model_path, args.model_base, **loading_options(args))
            budgets = args.compression or [inference.model.compression]
            rows = [[find_kept_tokens(inference, image, budget, args.query) for budget in budgets] for image in images]
            names = [Path(name_of(source)).name for source in args.image_file]
            for name, row in zip(names, rows, strict=True):
                for budget, tokens in zip(budgets, row, strict=True):
                    print(f"{f'{name}: ' if len(names) > 1 else ''}{budget}: {tokens.caption()}")
            print(f"written: {_draw(rows, list(map(str, budgets)), output)}")
        if args.json is not None:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(_told(names, budgets, rows), indent=2) + "\n", encoding="utf-8")
            print(f"written: {args.json}")
    return 0


def _draw(rows: Sequence[Sequence[KeptTokens]], budgets: Sequence[str], output: Path) -> Path:
    """A row an image: itself, then what each budget keeps."""
    from matplotlib.figure import Figure

    from llava.analysis.kept_tokens.draw import draw_kept_tokens
    from llava.analysis.paper_figure import save_figure

    columns = 1 + len(budgets)
    figure = Figure(figsize=(_INCHES * columns, (_INCHES + 0.5) * len(rows)), layout="constrained")
    for line, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axes in line:
            axes.set_anchor("S")  # the room that is left is above, where the titles are
        line[0].imshow(row[0].picture, interpolation="nearest")
        line[0].set_axis_off()
        for axes, budget, tokens in zip(line[1:], budgets, row, strict=True):
            draw_kept_tokens(axes, tokens, f"{budget}\n{tokens.caption().replace(': ', chr(10))}", tinted=True)
    return save_figure(figure, output)


def _told(names: Sequence[str], budgets: Sequence[Any], rows: Sequence[Sequence[KeptTokens]]) -> list[dict[str, Any]]:
    """Patches are numbered along the rows, from 0 in the corner at the top left."""
    return [
        {
            "image": name,
            "compression": str(budget),
            "grid": list(tokens.grid),
            "keeps_cls": tokens.keeps_cls,
            "kept_as_they_are": list(tokens.dominant),
            "merged": [{"stands_at": place, "tokens": size} for place, size in tokens.contextual.items()],
            "held_by": list(tokens.holders),
        }
        for name, row in zip(names, rows, strict=True)
        for budget, tokens in zip(budgets, row, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
