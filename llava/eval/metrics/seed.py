"""SEED-Bench: the text must be the option's letter, exactly, as LLaVA's `convert_seed_for_submission.py` compares it.

lmms-eval takes the first character and ignores its case. "All" is the images and the videos' middle frames together;
image only is another and higher number.

The published files hold question `49914` twice: 14,233 rows about images have 14,232 ids. Both rows count, so the
second has an id of its own here (`unique_ids`), and its published one in what is submitted (`published_id`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llava.eval.metrics.averages import mean, mean_by_group, some

TWICE = "49914"
_SECOND = f"{TWICE}#2"


@dataclass(frozen=True)
class SeedAnswer:
    """A scored question.

    Attributes:
        correct: 1 or 0.
        data_type: "image" or "video".
        question_type: The evaluation dimension's name.
    """

    correct: float
    data_type: str
    question_type: str


def unique_ids(ids: Iterable[str]) -> list[str]:
    """Ids of questions or answers in their order, the second `49914` as `49914#2`; other repeated ids stay."""
    found: list[str] = []
    for each in ids:
        found.append(_SECOND if each == TWICE and found.count(TWICE) == 1 and _SECOND not in found else each)
    return found


def published_id(sample_id: str) -> str:
    """The id that the published file has of a question that `unique_ids` has named."""
    return TWICE if sample_id == _SECOND else sample_id


def is_correct(text: str, answer: str) -> bool:
    """Whether a text is the letter."""
    return text == answer


def is_correct_in_lmms_eval(text: str, answer: str) -> bool:
    """Whether a text begins with the letter, in any case."""
    return text.strip()[:1].lower() == answer.strip().lower()


def seed_scores(answers: Iterable[SeedAnswer]) -> dict[str, float | dict[str, float]]:
    """Accuracies.

    Returns:
        `accuracy` (all), `image_accuracy`, `video_accuracy` where there are such, and `accuracy_by_type`.
    """
    listed = some(answers)
    scores: dict[str, float | dict[str, float]] = {"accuracy": mean(answer.correct for answer in listed)}
    for data_type in ("image", "video"):
        chosen = [answer.correct for answer in listed if answer.data_type == data_type]
        if chosen:
            scores[f"{data_type}_accuracy"] = mean(chosen)
    scores["accuracy_by_type"] = mean_by_group((answer.question_type, answer.correct) for answer in listed)
    return scores
