"""`python -m llava.eval.eval_textvqa`: scores LLaVA's answers to TextVQA. LLaVA's flags and its print-out."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.command_line import CommandParser, plain_errors
from llava.eval.metrics.averages import mean
from llava.eval.metrics.vqa import vqa_accuracy
from llava.eval.question_files import read_questions
from llava.json_text import parse_json
from llava.plain_files import read_utf8

_OLD_FORM = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)


def prompt_processor(prompt: str) -> str:
    """The question, in small letters, out of a prompt in one of the forms that LLaVA's files have.

    Raises:
        ValueError: It is in none of them.
    """
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: "):
        found = _OLD_FORM.search(prompt)
        if found is None:
            raise ValueError(f"there is no 'Question: ... Short answer:' in the prompt {prompt!r}")
        return found[1].lower()
    if len(lines) == 3 and "Reference OCR token: " in prompt:
        return lines[1 if prompt.startswith("Reference OCR token:") else 0].lower()
    if len(lines) == 2:
        return lines[0].lower()
    raise ValueError(f"cannot find the question in the prompt {prompt!r}")


def eval_single(annotation_file: Path, result_file: Path) -> float:
    """Scores a file of answers, prints the accuracy and returns it (0 to 1).

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is not what it should be, or an answer belongs to no question.
    """
    print(result_file.stem)
    try:
        rows = parse_json(read_utf8(annotation_file))["data"]
        known = {(row["image_id"], row["question"].lower()): list(row["answers"]) for row in rows}
        if not all(isinstance(answer, str) for answers in known.values() for answer in answers):
            raise TypeError("an answer is no text")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{annotation_file} is not TextVQA's annotation file ({error!r})") from None
    scores = []
    for row in read_questions(result_file, ("question_id", "prompt", "text")):
        try:
            key = (row["question_id"], prompt_processor(row["prompt"]))
        except ValueError as error:
            raise ValueError(f"{result_file}: question {row['question_id']!r}: {error}") from None
        if key not in known:
            raise ValueError(f"{result_file}: there is no question {key[1]!r} about image {key[0]!r}")
        scores.append(vqa_accuracy(row["text"], known[key]))
    print(f"Samples: {len(scores)}\nAccuracy: {100.0 * mean(scores):.2f}%\n")
    return mean(scores)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = CommandParser("llava.eval.eval_textvqa", __doc__)
    parser.add_argument("--annotation-file", type=Path, required=True, help="TextVQA_0.5.1_val.json")
    parser.add_argument("--result-file", type=Path, help="LLaVA's answers")
    parser.add_argument("--result-dir", type=Path, help="a folder of such files")
    args = parser.parse_args(arguments)
    if args.result_file is None and args.result_dir is None:
        parser.error("give --result-file or --result-dir")
    with plain_errors():
        if args.result_file is not None:
            eval_single(args.annotation_file, args.result_file)
        if args.result_dir is not None:
            paths = sorted(args.result_dir.iterdir())
            if not any(path.suffix == ".jsonl" for path in paths):
                raise ValueError(f"{args.result_dir} has no .jsonl file of answers")
            for path in paths:
                if path.suffix == ".jsonl":
                    eval_single(args.annotation_file, path)
                else:
                    print(f"Skipping {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
