"""`python -m llava.eval.model_vqa_science`: answers LLaVA's ScienceQA file. LLaVA's flags, and `--compression`.

The file is a list of {id, image?, conversations: [{value}, ...]}; questions without an image are asked as text.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from llava.command_line import plain_errors
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.eval.question_files import Asked, answer_file, check_fields, get_chunk, image_path, make_parser
from llava.json_text import parse_json
from llava.plain_files import read_utf8

_MAX_NEW_TOKENS = 1024


def eval_model(args: argparse.Namespace) -> None:
    """Answers the chunk of `args.question_file` that is asked for.

    Raises:
        OSError: The question file cannot be read.
        ValueError: A row, a flag or the checkpoint is not what it should be; or questions have no answer, see
            `answer_file`.
    """
    text = read_utf8(args.question_file)
    try:
        rows = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{args.question_file} is not JSON ({error})") from None
    check_fields(args.question_file, rows, ("id", "conversations"))
    asked = [_asked(row, args) for row in get_chunk(rows, args.num_chunks, args.chunk_idx)]
    answer_file(args, asked, _MAX_NEW_TOKENS)


def _asked(row: dict[str, Any], args: argparse.Namespace) -> Asked:
    from llava.eval.tasks.local_files import OPTION_LETTER

    try:
        text = row["conversations"][0]["value"].replace(DEFAULT_IMAGE_TOKEN, "").strip()
    except (LookupError, TypeError, AttributeError):
        raise ValueError(f"{args.question_file}: question {row['id']!r}: conversations[0].value is no text") from None
    text += f"\n{OPTION_LETTER}" if args.single_pred_prompt else ""
    has_image = "image" in row
    return Asked(
        text=text,
        image=image_path(args, row["id"], row["image"]) if has_image else None,
        row={"question_id": row["id"], "prompt": f"{DEFAULT_IMAGE_TOKEN}\n{text}" if has_image else text},
        more={},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser("model_vqa_science", "Answer LLaVA's ScienceQA file.", conv_mode="llava_v0")
    parser.add_argument("--answer-prompter", action="store_true", help="accepted without effect, as in LLaVA")
    parser.add_argument("--single-pred-prompt", action="store_true", help="ask for the option's letter alone")
    args = parser.parse_args(arguments)
    with plain_errors():
        eval_model(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
