"""`python -m llava.eval.compare`: methods x budgets on one model, with baselines, intervals and costs.

Example:
    python -m llava.eval.compare --model-path playground/tiny/model --methods all --budgets 98,49,20
        --tasks tiny_vqa,tiny_pope --output-dir runs/compare   (on one line)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.command_line import CommandParser, add_model_flags, add_shared, plain_errors, whole_number
from llava.eval.data_place import DataPlace
from llava.eval.session import add_run_flags, check_flags

if TYPE_CHECKING:
    from llava.eval.compare.beginning import Offer
    from llava.eval.compare.grid import Grid


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser("llava.eval.compare", "Compare methods of compression at equal budgets, with baselines.")
    add_model_flags(parser, required=False)
    parser.add_argument(
        "--methods",
        default=None,
        metavar="all|NAME[,option=value]...",
        help="names separated by commas, options behind each; the default is all. VisionZip and baselines always count",
    )
    parser.add_argument("--baselines", action="store_true", help="only all tokens, the baselines and VisionZip")
    parser.add_argument("--list-methods", action="store_true", help="print the methods and their options")
    parser.add_argument("--budgets", metavar="K,K...", help="tokens a tile, as in 192,128,64")
    parser.add_argument("--total", metavar="K,K...", help="tokens of an image of five tiles, as in 640,320,160")
    parser.add_argument(
        "--calibrated",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="an adaptive budget of llava calibrate, beside the fixed ones of its mean; repeatable",
    )
    parser.add_argument("--seeds", type=whole_number(1), default=3, help="draws of the random baseline (default 3)")
    parser.add_argument("--tasks", default="", help="names and my.json separated by commas, or 'all'")
    add_shared(parser, "--output-dir", type=Path, help="as for llava eval; the tables go there too")
    add_run_flags(parser)
    table = parser.add_argument_group("tables")
    table.add_argument(
        "--also",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="another output folder whose rows the tables show too, such as a tuned model's; repeatable",
    )
    table.add_argument("--paper", help="quote a table of the paper separately: table1 (7B), table2 (NeXT)...")
    table.add_argument(
        "--resamples", type=whole_number(0), default=2_000, help="of the bootstrap; 0: no intervals (default 2000)"
    )
    table.add_argument("--dry-run", action="store_true", help="print the grid, with what is left out and why, and end")
    table.add_argument("--tables-only", action="store_true", help="ask nothing: tables of existing answers")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    if args.list_methods:
        from llava.model.method_list import method_list

        print(method_list())
        return 0
    check_flags(parser, args, ("--model-path", "--tasks", "--output-dir"), "--list-methods")
    if (args.budgets is None) == (args.total is None):
        parser.error("give --budgets, tokens a tile, or --total, of an image of five tiles")
    if args.baselines and args.methods is not None:
        parser.error("--baselines compares no other methods; leave out --methods, or --baselines: they always count")
    return _run(parser, args)


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    from llava.eval.compare.asking import ask_grid
    from llava.eval.compare.beginning import begin
    from llava.results.paper import paper_tables

    if args.paper is not None and args.paper not in paper_tables():
        parser.error(f"--paper: no table {args.paper!r}; there are: {', '.join(paper_tables())}")
    begun = begin(parser, args, lambda config: _offer(args, config))
    if args.dry_run:
        return 0
    left_out: dict[str, str] = {}
    if not args.tables_only:
        status = ask_grid(parser, args, begun.place, begun.tasks, begun.grid, left_out)
        if status is not None:
            return status
    with plain_errors():
        for line in (f"not run: {task}: {reason}" for task, reason in left_out.items()):
            print(line)
        for path in _write_tables(args, begun.place, begun.grid):
            print(f"written: {path}")
    return 0


def _offer(args: argparse.Namespace, config: Any) -> Offer:
    """What the flags ask to compare."""
    from llava.eval.compare.beginning import Offer
    from llava.eval.compare.grid import budgets_of
    from llava.eval.compare.methods import parse_methods

    methods = [] if args.baselines else parse_methods("all" if args.methods is None else args.methods)
    return Offer(methods, budgets_of(args.budgets, args.total, config), args.seeds)


def _write_tables(args: argparse.Namespace, place: DataPlace, grid: Grid) -> list[Path]:
    from llava.eval.compare.files import to_csv, to_markdown
    from llava.eval.compare.intervals import add_intervals
    from llava.eval.compare.latex import to_latex
    from llava.eval.compare.picture import to_svg
    from llava.eval.compare.table import build_comparison
    from llava.eval.whole_files import write_whole
    from llava.results.paper import paper_tables

    quoted = paper_tables()[args.paper] if args.paper else None
    comparison = build_comparison([args.output_dir, *args.also], grid, quoted)
    add_intervals(comparison, place, args.resamples)
    markdown = to_markdown(comparison)
    print(markdown)
    texts = {"md": markdown, "csv": to_csv(comparison), "tex": to_latex(comparison), "svg": to_svg(comparison)}
    return [write_whole(args.output_dir / f"compare.{name}", text) for name, text in texts.items()]
