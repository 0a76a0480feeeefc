"""`python -m llava.data.convert OTHERS.json --output MINE.json`: conversations of other programs in LLaVA's form.

It reads JSON and JSONL of `messages` or `conversations`, `role` or `from`, `content` or `value`, `image` or `images`,
as LLaMA-Factory, ms-swift and TRL have them. It does not read forms of a single question (`instruction`, `query`, ...).
LLaVA's own form may be converted too, for --image-first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava.command_line import CommandParser, plain_errors
from llava.data.foreign import Options, to_llava
from llava.data.records import BadLine, Record, count_sources, problem_of, read_entries, source_table, write_records
from llava.data.tables.open_table import is_table
from llava.data.templates import get_template


def main(argv: Sequence[str] | None = None) -> int:
    """Converts a data file; prints how many entries of each source are in it.

    Returns:
        0.

    Raises:
        SystemExit: Status 1 with a line that says what is wrong; 2 for wrong flags.
    """
    parser = CommandParser("llava.data.convert", __doc__)
    parser.add_argument("data", type=Path, help="JSON or JSONL of another program")
    parser.add_argument("--output", type=Path, required=True, help="LLaVA's JSON, or JSONL if it ends so")
    parser.add_argument(
        "--system",
        choices=["front", "drop"],
        default="front",
        help="system texts: in front of the first question, or left out: templates have one (default: %(default)s)",
    )
    parser.add_argument(
        "--image-first",
        action="store_true",
        help="put <image> in front of the first question of entries that have images and no <image>",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out entries that cannot be converted")
    arguments = parser.parse_args(argv)
    with plain_errors():
        _convert(arguments)
    return 0


def _convert(arguments: argparse.Namespace) -> None:
    """What the command line does.

    Raises:
        ValueError: The file is no JSON, or an entry of it cannot be converted.
    """
    data, output = arguments.data, arguments.output
    if is_table(data):
        raise ValueError(f"{data} is a table; write it as JSON first, its images as files")
    if output.resolve() == data.resolve():
        raise ValueError(f"--output {output} would overwrite the data; choose another name")
    options = Options(drop_system=arguments.system == "drop", image_first=arguments.image_first)
    entries = read_entries(data, keep_bad_lines=True)
    converted: list[Record] = []
    bad: list[str] = []
    for place, entry in tqdm(entries, desc="converting", unit=" entries", mininterval=1.0, delay=1.0):
        try:
            converted.append(_checked(entry, options))
        except ValueError as error:
            name = entry.get("id") if isinstance(entry, dict) else None
            bad.append(f"{data}, {place} (id {name!r}): {error}")
    if bad and not (arguments.skip_bad and converted):
        more = f"; {len(bad) - 1} more like it" if len(bad) > 1 else ""
        raise ValueError(f"{bad[0]}{more}. --skip-bad leaves such entries out")
    write_records(output, converted)
    print(source_table([("written", count_sources(converted))]))
    print(f"{output}: {len(converted):,} of {len(entries):,} entries")
    if bad:
        print(f"left out: {bad[0]}" + (f", and {len(bad) - 1:,} more" if len(bad) > 1 else ""), file=sys.stderr)


def _checked(entry: Any, options: Options) -> Record:
    """The entry in LLaVA's form, as training will take it.

    Raises:
        ValueError: It is not to be had.
    """
    if isinstance(entry, BadLine):
        raise ValueError(entry.message)
    record = to_llava(entry, options)
    problem = problem_of(record, get_template("v1"), "/")
    if problem is not None:
        raise ValueError(problem.message)
    return record


if __name__ == "__main__":
    sys.exit(main())
