"""`python -m llava.eval.model_vqa_mmbench`: answers a table of MMBench. LLaVA's flags, and `--compression`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llava.command_line import plain_errors
from llava.eval.question_files import Asked, Problem, answer_file, check_fields, get_chunk, make_parser
from llava.plain_files import expanded

_MAX_NEW_TOKENS = 1024
_FIELDS = ("index", "question", "hint", "A", "B", "C", "D", "image")


def eval_model(args: argparse.Namespace) -> None:
    """Answers the chunk of `args.question_file` that is asked for.

    Raises:
        ValueError: The table, a flag or the checkpoint is not what it should be; or questions have no answer, see
            `answer_file`.
    """
    from llava.eval.tasks.mmbench import read_table

    rows = read_table(expanded(args.question_file))
    check_fields(args.question_file, rows, _FIELDS)
    encoded = {row["index"]: row["image"] for row in rows}
    _check_indices(args.question_file, rows)
    chunk = get_chunk(rows, args.num_chunks, args.chunk_idx)
    asked = [item for row in chunk for item in _rounds(row, encoded, args)]
    answer_file(args, asked, _MAX_NEW_TOKENS)


def _check_indices(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Refuses a table whose answers could not be told apart.

    Raises:
        ValueError: An index is no whole number, or is there twice.
    """
    first: dict[int, int] = {}
    for number, row in enumerate(rows, start=1):
        try:
            index = int(row["index"])
        except ValueError:
            raise ValueError(f"{path}: row {number}: index {row['index']!r:.60} is no whole number") from None
        if first.setdefault(index, number) != number:
            raise ValueError(f"{path}: row {number}: index {index} is that of row {first[index]} too")


def _rounds(row: Mapping[str, str], encoded: Mapping[str, str], args: argparse.Namespace) -> Iterator[Asked]:
    """A row once, or as often as it has options, the options rotated each time."""
    from llava.eval.tasks.local_files import LETTERS, OPTION_LETTER, options_below
    from llava.eval.tasks.mmbench import OPTION_LETTER_CN, decode_image, encoded_image, is_none, shown_options

    try:
        image: bytes | Problem = decode_image(encoded_image(row, encoded), f"of row {row['index']}")
    except ValueError as error:
        image = Problem(f"{args.question_file}: {error}")
    options = shown_options(row)
    letters = list(LETTERS[: len(options)])
    question = row["question"] if is_none(row["hint"]) else f"{row['hint']}\n{row['question']}"
    tail = "\n" + (OPTION_LETTER_CN if args.lang == "cn" else OPTION_LETTER) if args.single_pred_prompt else ""
    for number in range(len(options) if args.all_rounds else 1):
        turned = options[number:] + options[:number]
        prompt = options_below(question, turned)
        yield Asked(
            text=prompt + tail,
            image=image,
            row={"question_id": int(row["index"]), "round_id": number, "prompt": prompt},
            more={"options": turned, "option_char": letters[number:] + letters[:number]},
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser("model_vqa_mmbench", "Answer a table of MMBench.")
    parser.add_argument("--all-rounds", action="store_true", help="ask each row with all rotations of its options")
    parser.add_argument("--single-pred-prompt", action="store_true", help="ask for the option's letter alone")
    parser.add_argument("--lang", default="en", choices=["en", "cn"], help="language of that request (default en)")
    args = parser.parse_args(arguments)
    with plain_errors():
        eval_model(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
