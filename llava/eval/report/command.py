"""`python -m llava.eval.report`: folders of results -> report.md, .csv, .tex, .png; or two answer sets compared.

Example:
    python -m llava.eval.report runs/7b runs/7b-tuned --paper table1 --output runs/report
    python -m llava.eval.report --diff runs/7b/answers/pope/none.jsonl runs/7b/answers/pope/visionzip_54+10.jsonl
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llava.command_line import CommandParser, add_shared, picture_formats, plain_errors, whole_number
from llava.eval.data_place import DataPlace, add_data_flags


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser("llava.eval.report", "Report results of llava.eval.")
    parser.add_argument(
        "folders", type=Path, nargs="*", help="output folders; the first with results of 'none' gives the vanilla"
    )
    parser.add_argument("--diff", type=Path, nargs=2, metavar=("A", "B"), help="two files of answers of one task")
    add_shared(
        parser, "--output-dir,--output", type=Path, help="folder of the report; default: the first folder, or that of B"
    )
    parser.add_argument("--paper", help="show a table of the paper too: table1 (7B), table2 (NeXT), table14 (MGM)...")
    add_data_flags(parser)
    parser.add_argument(
        "--resamples", type=whole_number(0), default=2_000, help="of the bootstrap; 0: no intervals (default 2000)"
    )
    parser.add_argument("--no-picture", action="store_true", help="without report.png, which needs matplotlib")
    parser.add_argument(
        "--formats", default="png", help="of the picture: png, pdf and svg, separated by commas (default png)"
    )
    parser.add_argument(
        "--columns",
        type=whole_number(1),
        default=2,
        help="panels of the picture beside each other (default 2: fits a phone)",
    )
    parser.add_argument(
        "--pictures", type=whole_number(0), default=200, help="--diff: pictures in the page at most (default 200)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    if bool(args.folders) == bool(args.diff):
        parser.error("name folders of results, or --diff A B")

    with plain_errors():
        data = DataPlace.of(args)
        for path in _diff(args, data) if args.diff else _report(args, data):
            print(f"written: {path}")
    return 0


def _report(args: argparse.Namespace, data: DataPlace) -> list[Path]:
    from llava.eval.report.files import to_csv, to_markdown
    from llava.eval.report.intervals import add_intervals
    from llava.eval.report.latex import to_latex
    from llava.eval.report.picture import FORMATS, draw
    from llava.eval.report.table import build_table
    from llava.results.paper import paper_tables

    formats = picture_formats(args, FORMATS)
    if args.paper is not None and args.paper not in paper_tables():
        raise ValueError(f"--paper: no table {args.paper!r}; there are: {', '.join(paper_tables())}")
    table = build_table(args.folders, paper_tables()[args.paper] if args.paper else None)
    if args.resamples > 0:
        add_intervals(table, data, args.resamples)
    output: Path = args.output_dir or args.folders[0]
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for name in formats:
        written.append(output / f"report.{name}")
        written[-1].write_bytes(draw(table, name, args.columns))
    markdown = to_markdown(table)
    for name, text in (("md", markdown), ("csv", to_csv(table)), ("tex", to_latex(table))):
        written.append(output / f"report.{name}")
        written[-1].write_text(text, encoding="utf-8")
    print(markdown)
    return written


def _diff(args: argparse.Namespace, data: DataPlace) -> list[Path]:
    from llava.eval.report.diff import compare_answers, to_html

    comparison = compare_answers(args.diff[0], args.diff[1], data)
    print(comparison.summary())
    names = "-".join(path.stem for path in args.diff)
    folder: Path = args.output_dir or args.diff[1].parent
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"diff-{comparison.task}-{names}.html"
    path.write_text(to_html(comparison, args.pictures), encoding="utf-8")
    return [path]
