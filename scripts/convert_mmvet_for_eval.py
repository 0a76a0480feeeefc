"""LLaVA's answers to MM-Vet -> the file that MM-Vet's evaluator reads. LLaVA's name and flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llava.command_line import plain_errors
from llava.eval.question_files import read_questions
from llava.eval.submissions import write_mmvet_results


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes {v1_<number>: text}."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--src", type=Path, required=True, help="LLaVA's answers")
    parser.add_argument("--dst", type=Path, required=True)
    args = parser.parse_args(arguments)
    with plain_errors():
        rows = read_questions(args.src, ("question_id", "text"))
        write_mmvet_results(args.dst, {f"v1_{row['question_id']}": row["text"] for row in rows})


if __name__ == "__main__":
    main()
