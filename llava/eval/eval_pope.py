"""`python -m llava.eval.eval_pope`: scores LLaVA's answers to POPE, a block a split. LLaVA's flags and print-out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava.command_line import CommandParser, plain_errors
from llava.eval.metrics import pope
from llava.eval.question_files import read_questions
from llava.plain_files import expanded

_PREFIX = "coco_pope_"


def eval_pope(answers: Sequence[str], label_file: Path) -> pope.PopeScores:
    """Scores the answers of one split, and prints the scores.

    Args:
        answers: What the model said, in the order of the labels.
        label_file: `coco_pope_<split>.json`, a line a question.

    Raises:
        ValueError: There are not as many answers as labels.
    """
    labels = [row["label"] for row in read_questions(label_file, ("label",))]
    if len(answers) != len(labels):
        raise ValueError(f"{len(answers)} answers for {len(labels)} questions of {label_file}: they go by their order")
    scores = pope.count(zip(answers, labels, strict=True))
    print("TP\tFP\tTN\tFN\t")
    counts = (scores.true_positives, scores.false_positives, scores.true_negatives, scores.false_negatives)
    print("\t".join(map(str, counts)))
    print(f"Accuracy: {scores.accuracy}")
    print(f"Precision: {scores.precision}")
    print(f"Recall: {scores.recall}")
    print(f"F1 score: {scores.f1}")
    print(f"Yes ratio: {scores.yes_ratio}")
    every = (scores.f1, scores.accuracy, scores.precision, scores.recall, scores.yes_ratio)
    print(", ".join(f"{value:.3f}" for value in every))
    return scores


def _check_order(
    field: str, rows: Sequence[dict[str, Any]], questions: Sequence[dict[str, Any]], path: Path, question_file: Path
) -> None:
    """Answers, questions and labels go by their order, as in LLaVA.

    Raises:
        ValueError: A field that both files have shows another order.
    """
    for number, (row, question) in enumerate(zip(rows, questions, strict=False), start=1):
        if field in row and field in question and row[field] != question[field]:
            raise ValueError(
                f"{path}: {field} {row[field]!r} stands where {question_file} has {question[field]!r} "
                f"(number {number} of its split); they go by their order"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = CommandParser("llava.eval.eval_pope", __doc__)
    parser.add_argument("--annotation-dir", type=Path, required=True, help=f"holds {_PREFIX}<split>.json")
    parser.add_argument("--question-file", type=Path, required=True, help="lines with question_id and category")
    parser.add_argument("--result-file", type=Path, required=True, help="LLaVA's answers")
    args = parser.parse_args(arguments)
    with plain_errors():
        rows = read_questions(args.question_file, ("question_id", "category"))
        category = {row["question_id"]: row["category"] for row in rows}
        answers = read_questions(args.result_file, ("question_id", "text"))
        unknown = next((row["question_id"] for row in answers if row["question_id"] not in category), None)
        if unknown is not None:
            raise ValueError(f"{args.result_file}: question {unknown!r} is not in {args.question_file}")
        paths = sorted(expanded(args.annotation_dir).glob(f"{_PREFIX}*.json"))
        if not paths:
            raise ValueError(f"{args.annotation_dir} has no {_PREFIX}<split>.json")
        for path in paths:
            split = path.stem.removeprefix(_PREFIX)
            own = [row for row in answers if category[row["question_id"]] == split]
            asked = [row for row in rows if row["category"] == split]
            _check_order("question_id", own, asked, args.result_file, args.question_file)
            # The labels' ids are other than the questions': POPE counts anew in each split.
            _check_order("image", read_questions(path, ("label",)), asked, path, args.question_file)
            texts = [row["text"] for row in own]
            print(f"Category: {split}, # samples: {len(texts)}")
            eval_pope(texts, path)
            print("=" * 36)
    return 0


if __name__ == "__main__":
    sys.exit(main())
