"""LLaVA's answers to GQA -> the file that GQA's own `eval.py` reads. LLaVA's name and flags."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from llava.command_line import plain_errors
from llava.eval.metrics import gqa
from llava.eval.question_files import read_questions


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes [{questionId, prediction}]."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--src", type=Path, required=True, help="LLaVA's answers")
    parser.add_argument("--dst", type=Path, required=True)
    args = parser.parse_args(arguments)
    with plain_errors():
        rows = read_questions(args.src, ("question_id", "text"))
        answers = [{"questionId": row["question_id"], "prediction": gqa.normalise(row["text"])} for row in rows]
        args.dst.parent.mkdir(parents=True, exist_ok=True)
        args.dst.write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main()
