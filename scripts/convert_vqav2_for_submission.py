"""LLaVA's answers to VQAv2 test-dev -> the file that EvalAI takes. LLaVA's name and flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llava.command_line import plain_errors
from llava.eval.question_files import check_fields, read_lines, read_questions
from llava.eval.submissions import write_vqa_submission

_EVERY_QUESTION = "llava_vqav2_mscoco_test2015.jsonl"


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes [{question_id, answer}] for every question of test2015; those without an answer get an empty one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("playground/data/eval/vqav2"))
    parser.add_argument("--ckpt", required=True, help="answers are in <dir>/answers/<split>/<ckpt>/merge.jsonl")
    parser.add_argument("--split", required=True)
    args = parser.parse_args(arguments)
    source = args.dir / "answers" / args.split / args.ckpt / "merge.jsonl"
    with plain_errors():
        results, bad = read_lines(source)
        check_fields(source, results, ("question_id", "text"))
        ids = [row["question_id"] for row in read_questions(args.dir / _EVERY_QUESTION, ("question_id",))]
        print(f"total results: {len(results)}, total split: {len(ids)}, error_line: {bad}")
        texts = {row["question_id"]: row["text"] for row in results}
        write_vqa_submission(args.dir / "answers_upload" / args.split / f"{args.ckpt}.json", ids, texts)


if __name__ == "__main__":
    main()
