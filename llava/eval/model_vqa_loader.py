"""`python -m llava.eval.model_vqa_loader`: as `model_vqa`, for short answers. LLaVA's flags, and `--compression`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llava.command_line import add_shared, plain_errors
from llava.eval.model_vqa import eval_model
from llava.eval.question_files import make_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser("model_vqa_loader", "Answer a question file with short answers.")
    add_shared(parser, "--max-new-tokens", default=128, help="most tokens of an answer (default 128)")
    args = parser.parse_args(arguments)
    with plain_errors():
        eval_model(args, args.max_new_tokens)
    return 0


if __name__ == "__main__":
    sys.exit(main())
