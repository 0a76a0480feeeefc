"""OCRBench: an answer is right if it contains a reference answer; a point a question, 1,000 in all.

The rules are those of OCRBench's `example.py`: both sides in lower case, edges stripped, line breaks as spaces.
Formulas (the questions of HME100k) keep their case and lose all spaces instead. lmms-eval also reads full-width letters
as plain ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llava.eval.metrics.averages import mean, mean_by_group, some

FORMULAS = "HME100k"
RECOGNITION = "Text Recognition"
_KINDS_OF_RECOGNITION = frozenset(
    f"{kind} Recognition"
    for kind in ("Regular Text", "Irregular Text", "Artistic Text", "Handwriting", "Digit String", "Non-Semantic Text")
)


@dataclass(frozen=True)
class OcrAnswer:
    """A scored question.

    Attributes:
        correct: 1 or 0.
        question_type: One of OCRBench's ten types.
    """

    correct: float
    question_type: str


def is_correct(text: str, answers: Sequence[str], dataset: str) -> bool:
    """Whether a text contains one of the answers.

    Args:
        text: What the model said.
        answers: The reference answers.
        dataset: The data set that the question is from; formulas are compared otherwise.
    """
    form = _formula if dataset == FORMULAS else _plain
    return any(form(answer) in form(text) for answer in answers)


def component_of(question_type: str) -> str:
    """Which of OCRBench's five components a type of question belongs to."""
    return RECOGNITION if question_type in _KINDS_OF_RECOGNITION else question_type


def ocrbench_scores(answers: Iterable[OcrAnswer]) -> dict[str, float | dict[str, float]]:
    """Accuracies and points.

    Returns:
        `accuracy`, `accuracy_by_type` (ten), `points`, which is OCRBench's final score out of 1,000, and
        `points_by_component` (five).
    """
    listed = some(answers)
    points: dict[str, float] = {}
    for answer in sorted(listed, key=lambda answer: component_of(answer.question_type)):
        component = component_of(answer.question_type)
        points[component] = points.get(component, 0.0) + answer.correct
    return {
        "accuracy": mean(answer.correct for answer in listed),
        "accuracy_by_type": mean_by_group((answer.question_type, answer.correct) for answer in listed),
        "points": sum(points.values()),
        "points_by_component": points,
    }


def _plain(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _formula(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")
