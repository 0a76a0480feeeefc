"""`python -m llava.eval.model_vqa`: answers a question file, 1024 tokens at most. LLaVA's flags, and `--compression`.

A question file has a line {question_id, image, text} a question.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llava.command_line import plain_errors
from llava.eval.question_files import Asked, answer_file, get_chunk, image_path, make_parser, read_questions

_MAX_NEW_TOKENS = 1024


def eval_model(args: argparse.Namespace, max_new_tokens: int = _MAX_NEW_TOKENS) -> None:
    """Answers the chunk of `args.question_file` that is asked for.

    Raises:
        OSError: The question file cannot be read.
        ValueError: A row, a flag or the checkpoint is not what it should be; or questions have no answer, see
            `answer_file`.
    """
    rows = read_questions(args.question_file, ("question_id", "image", "text"))
    asked = [
        Asked(
            text=row["text"],
            image=image_path(args, row["question_id"], row["image"]),
            row={"question_id": row["question_id"], "prompt": row["text"]},
            more={},
        )
        for row in get_chunk(rows, args.num_chunks, args.chunk_idx)
    ]
    answer_file(args, asked, max_new_tokens)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = make_parser("model_vqa", "Answer a question file (1024 tokens an answer).").parse_args(arguments)
    with plain_errors():
        eval_model(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
