"""LLaVA's answers to MMBench -> the .xlsx that its server takes. LLaVA's name and flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llava.command_line import plain_errors
from llava.eval.question_files import read_questions
from llava.eval.submissions import write_mmbench_submission


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes <upload-dir>/<experiment>.xlsx."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotation-file", type=Path, required=True, help="MMBench's table")
    parser.add_argument("--result-dir", type=Path, required=True, help="holds <experiment>.jsonl, LLaVA's answers")
    parser.add_argument("--upload-dir", type=Path, required=True)
    parser.add_argument("--experiment", required=True)
    args = parser.parse_args(arguments)
    from llava.eval.tasks.mmbench import read_table

    with plain_errors():
        table = read_table(args.annotation_file)
        answers = read_questions(args.result_dir / f"{args.experiment}.jsonl", ("question_id", "text"))
        texts = {int(row["question_id"]): row["text"] for row in answers}
        rows = [
            {name: cell or None for name, cell in row.items()}
            | {"index": int(row["index"]), "prediction": texts.get(int(row["index"]))}
            for row in table
        ]
        write_mmbench_submission(args.upload_dir / f"{args.experiment}.xlsx", rows)


if __name__ == "__main__":
    main()
