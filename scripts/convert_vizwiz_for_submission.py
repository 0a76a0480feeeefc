"""LLaVA's answers to VizWiz -> the file that EvalAI takes. LLaVA's name and flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llava.command_line import plain_errors
from llava.eval.question_files import check_fields, read_lines, read_questions
from llava.eval.submissions import write_vizwiz_submission


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes [{image, answer}]."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotation-file", type=Path, required=True, help="lines with question_id and image")
    parser.add_argument("--result-file", type=Path, required=True, help="LLaVA's answers")
    parser.add_argument("--result-upload-file", type=Path, required=True)
    args = parser.parse_args(arguments)
    with plain_errors():
        results, bad = read_lines(args.result_file)
        check_fields(args.result_file, results, ("question_id", "text"))
        split = read_questions(args.annotation_file, ("question_id", "image"))
        print(f"total results: {len(results)}, total split: {len(split)}, error_line: {bad}")
        texts = {row["question_id"]: row["text"] for row in results}
        answers = {row["image"]: texts[row["question_id"]] for row in split if row["question_id"] in texts}
        write_vizwiz_submission(args.result_upload_file, [row["image"] for row in split], answers)


if __name__ == "__main__":
    main()
