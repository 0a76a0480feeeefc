"""LLaVA's answers to SEED-Bench -> accuracies, and the leaderboard's file. LLaVA's name and flags."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.command_line import plain_errors
from llava.eval.metrics.seed import SeedAnswer, is_correct, published_id, seed_scores, unique_ids
from llava.eval.question_files import check_fields, read_questions
from llava.eval.submissions import write_seed_submission


def print_scores(data: Mapping[str, Any], texts: Sequence[str]) -> None:
    """A line a type of question, then all, images and videos; `texts` are the answers to `data["questions"]`."""
    names = {number: name for name, number in data["question_type"].items()}
    answers = [
        SeedAnswer(
            float(is_correct(text, row["answer"])),
            row["data_type"],
            names[row["question_type_id"]],
        )
        for row, text in zip(data["questions"], texts, strict=True)
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
        check_fields(args.annotation_file, data.get("questions") or [], ("question_id", "answer", "data_type"))
        rows = read_questions(args.result_file, ("question_id", "text"))
        answered = unique_ids(str(row["question_id"]) for row in rows)
        texts = {key: row["text"] for key, row in zip(answered, rows, strict=True)}
        ids = unique_ids(str(row["question_id"]) for row in data["questions"])
        # Where a question that stands twice is answered once, that is the answer to both.
        texts |= {key: texts[published_id(key)] for key in ids if key not in texts and published_id(key) in texts}
        print_scores(data, [texts.get(key, "") for key in ids])
        write_seed_submission(args.result_upload_file, ids, texts)


if __name__ == "__main__":
    main()
