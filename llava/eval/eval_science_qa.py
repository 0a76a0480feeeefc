"""`python -m llava.eval.eval_science_qa`: scores LLaVA's answers to ScienceQA. LLaVA's flags, print-out and files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava.command_line import CommandParser, plain_errors
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.eval.metrics.scienceqa import LETTERS, parse_letter, predicted_index
from llava.eval.question_files import read_questions
from llava.json_text import parse_json
from llava.plain_files import expanded, read_utf8

_FAILED = "FAILED"


def evaluate(base_dir: Path, split: str, result_file: Path) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Scores a file of answers.

    Args:
        base_dir: Holds `problems.json` and `pid_splits.json`.
        split: Name of the split.
        result_file: LLaVA's answers; a problem without one is wrong.

    Returns:
        An analysis of each problem under `correct` and `incorrect`; and `acc` (in percent), `correct`, `count`,
        `results` (the option's index or -1, by problem) and `outputs` (the texts).

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is not what it should be.
    """
    splits, problems = _read(base_dir / "pid_splits.json"), _read(base_dir / "problems.json")
    if split not in splits:
        raise ValueError(f"{base_dir / 'pid_splits.json'} has no split {split!r}; it has {', '.join(splits)}")
    if not isinstance(splits[split], list) or not all(isinstance(key, str) for key in splits[split]):
        raise ValueError(f"{base_dir / 'pid_splits.json'}: the split {split!r} is no list of ids")
    if not splits[split]:
        raise ValueError(
            f"{base_dir / 'pid_splits.json'}: the split {split!r} has no problem, so there is nothing to score"
        )
    answers = {row["question_id"]: row for row in read_questions(result_file, ("question_id", "text", "prompt"))}
    analyses: dict[str, list[Any]] = {"correct": [], "incorrect": []}
    summary: dict[str, Any] = {"acc": None, "correct": None, "count": None, "results": {}, "outputs": {}}
    for key in splits[split]:
        if key not in problems:
            raise ValueError(f"{base_dir / 'problems.json'} has no problem {key!r}, which the split {split!r} names")
        problem, answer = problems[key], answers.get(key, {"text": _FAILED, "prompt": "Unknown"})
        if not _is_problem(problem):
            raise ValueError(
                f"{base_dir / 'problems.json'}: problem {key!r} lacks choices, or the place of the right one"
            )
        text = answer["text"]
        index = predicted_index(text, len(problem["choices"]))
        summary["results"][key], summary["outputs"][key] = index, text
        analyses["correct" if index == problem["answer"] else "incorrect"].append(
            {
                "question_id": key,
                "parsed_ans": parse_letter(text) or _FAILED,
                "ground_truth": LETTERS[problem["answer"]],
                "question": answer["prompt"],
                "pred": text,
                "is_multimodal": DEFAULT_IMAGE_TOKEN in answer["prompt"],
            }
        )
    correct, count = len(analyses["correct"]), len(splits[split])
    return analyses, summary | {"acc": _percent(correct, count), "correct": correct, "count": count}


def _is_problem(problem: Any) -> bool:
    """Whether it has choices and names one of them."""
    choices = problem.get("choices") if isinstance(problem, dict) else None
    if not isinstance(choices, list) or type(problem.get("answer")) is not int:
        return False
    return problem["answer"] in range(min(len(choices), len(LETTERS)))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_utf8(path))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def _percent(part: int, whole: int) -> float:
    return part / whole * 100 if whole else float("nan")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = CommandParser("llava.eval.eval_science_qa", __doc__)
    parser.add_argument("--base-dir", type=Path, required=True, help="holds problems.json and pid_splits.json")
    parser.add_argument("--result-file", type=Path, required=True, help="LLaVA's answers")
    parser.add_argument("--output-file", type=Path, required=True, help="gets an analysis of each problem")
    parser.add_argument("--output-result", type=Path, required=True, help="gets the figures and the parsed answers")
    parser.add_argument("--split", default="test")
    args = parser.parse_args(arguments)
    with plain_errors():
        analyses, summary = evaluate(args.base_dir, args.split, args.result_file)
        right, every = (
            sum(row["is_multimodal"] for name in names for row in analyses[name])
            for names in (("correct",), ("correct", "incorrect"))
        )
        print(
            f"Total: {summary['count']}, Correct: {summary['correct']}, Accuracy: {summary['acc']:.2f}%, "
            f"IMG-Accuracy: {_percent(right, every):.2f}%"
        )
        for path, content in ((args.output_file, analyses), (args.output_result, summary)):
            expanded(path).write_text(json.dumps(content, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
