"""LLaVA's answers to SEED-Bench -> accuracies, and the leaderboard's file. LLaVA's name and flags."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.command_line import plain_errors
from llava.eval.metrics.seed import SeedAnswer, is_correct, seed_scores
from llava.eval.question_files import read_questions
from llava.eval.submissions import write_seed_submission


def print_scores(data: Mapping[str, Any], texts: Mapping[str, str]) -> None:
    """A line a type of question, then all, images and videos."""
    names = {number: name for name, number in data["question_type"].items()}
    answers = [
        SeedAnswer(
            float(is_correct(texts.get(str(row["question_id"]), ""), row["answer"])),
            row["data_type"],
            names[row["question_type_id"]],
        )
        for row in data["questions"]
    ]
    scores = seed_scores(answers)
    by_type = scores["accuracy_by_type"]
    for _, name in sorted(names.items()):
        if isinstance(by_type, dict) and name in by_type:
            print(f"{name}: {100 * by_type[name]:.2f}%")
    lines = (("Total", "accuracy"), ("image", "image_accuracy"), ("video", "video_accuracy"))
    for name, score in lines:
        value = scores.get(score)
        if isinstance(value, float):
            print(f"{name} accuracy: {100 * value:.2f}%")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints accuracies and writes a line {question_id, prediction} a question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotation-file", type=Path, required=True, help="SEED-Bench.json")
    parser.add_argument("--result-file", type=Path, required=True, help="LLaVA's answers")
    parser.add_argument("--result-upload-file", type=Path, required=True)
    args = parser.parse_args(arguments)
    from llava.eval.tasks.local_files import read_json

    with plain_errors():
        data = read_json(args.annotation_file)
        rows = read_questions(args.result_file, ("question_id", "text"))
        texts = {str(row["question_id"]): row["text"] for row in rows}
        print_scores(data, texts)
        ids = [str(row["question_id"]) for row in data["questions"]]
        write_seed_submission(args.result_upload_file, ids, texts)


if __name__ == "__main__":
    main()
