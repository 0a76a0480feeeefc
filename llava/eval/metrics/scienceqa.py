"""ScienceQA: the option's letter, as LLaVA's `eval_science_qa.py` reads it.

- A text that is a letter A to E, or that starts with one and ". ", or that says "The answer is X" followed by any
  character exactly once, names X; anything else is wrong (the script could guess at random but returns -1 before).
- A letter beyond the question's options is wrong.
- The image subset is the questions with an image: 2,017 of the 4,241 of the test split.

lmms-eval instead takes a letter in any case, or a first capital followed by a period. The breakdown is that of
ScienceQA's own `evaluate_acc.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from llava.eval.metrics.averages import mean, mean_by_group, some

LETTERS = ("A", "B", "C", "D", "E")

_SENTENCE = re.compile(r"The answer is ([A-Z]).")
_SUBJECTS = {"natural science": "natural", "social science": "social", "language science": "language"}


@dataclass(frozen=True)
class ScienceAnswer:
    """A scored question and what its row in `problems.json` says of it.

    Attributes:
        correct: 1 or 0.
        has_image: Whether the question comes with an image.
        has_text: Whether it comes with a hint.
        subject: "natural science", "social science", "language science", or "" if unknown.
        grade: "grade1" to "grade12", or "" if unknown.
    """

    correct: float
    has_image: bool
    has_text: bool = False
    subject: str = ""
    grade: str = ""


def parse_letter(text: str) -> str:
    """The letter that a text names, or ""."""
    if text in LETTERS:
        return text
    if text[:1] in LETTERS and text[1:3] == ". ":
        return text[0]
    named = _SENTENCE.findall(text)
    return named[0] if len(named) == 1 else ""


def predicted_index(text: str, choices: int) -> int:
    """The option that a text names.

    Args:
        text: What the model said.
        choices: Number of the question's options.

    Returns:
        Its index, or -1 if there is none such.
    """
    letter = parse_letter(text)
    return LETTERS.index(letter) if letter in LETTERS[:choices] else -1


def scienceqa_scores(answers: Iterable[ScienceAnswer]) -> dict[str, float | dict[str, float]]:
    """Accuracy, overall, of the image subset and by category.

    Returns:
        `accuracy`, `img_accuracy`, and `accuracy_by_category` with those of natural, social, language, text, image,
        no_context, grade_1_6 and grade_7_12 that occur. All between 0 and 1.
    """
    listed = some(answers)
    categories = mean_by_group((name, answer.correct) for answer in listed for name in _categories(answer))
    return {
        "accuracy": mean(answer.correct for answer in listed),
        "img_accuracy": mean(answer.correct for answer in listed if answer.has_image),
        "accuracy_by_category": categories,
    }


def _categories(answer: ScienceAnswer) -> list[str]:
    names = [_SUBJECTS[answer.subject]] if answer.subject in _SUBJECTS else []
    names += ["text"] if answer.has_text else []
    names += ["image"] if answer.has_image else []
    names += ["no_context"] if not (answer.has_text or answer.has_image) else []
    if (number := answer.grade.removeprefix("grade")).isdecimal():
        names.append("grade_1_6" if int(number) <= 6 else "grade_7_12")
    return names
