"""LLaVA-Bench (In-the-Wild): a judge grades two answers side by side, the reference's and the model's, from 1 to 10.

The score is the model's mean grade as a percentage of the reference's. The prompt and its assembly are those of LLaVA's
`eval_gpt_review_bench.py` and `rule.json` (Apache-2.0), kept verbatim: they are part of the metric. The summary is that
of `summarize_gpt_review.py`, its rounding included.

LLaVA's script takes whatever two numbers stand on the first line, and -1 for both where it reads none; its summary
averages them all. So does this. "nan" and "inf" are no numbers here: one of them would be the score of all. The grades
from 1 to 10 that the judge is asked for are a stricter reading (`is_on_scale`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llava.eval.metrics.averages import mean

SYSTEM_PROMPT = "You are a helpful and precise assistant for checking the quality of the answer."
ROLE = "Assistant"
# The same for each of LLaVA-Bench's categories.
RULE = (
    "We would like to request your feedback on the performance of two AI assistants in response to the "
    "user question displayed above. The user asks the question on observing an image. For your "
    "reference, the visual content in the image is represented with a few sentences describing the image. \n"
    "Please rate the helpfulness, relevance, accuracy, level of details of their responses. Each "
    "assistant receives an overall score on a scale of 1 to 10, where a higher score indicates better "
    "overall performance.\n"
    "Please first output a single line containing only two values indicating the scores for Assistant 1 "
    "and 2, respectively. The two scores are separated by a space.\n"
    "In the subsequent line, please provide a comprehensive explanation of your evaluation, avoiding any "
    "potential bias and ensuring that the order in which the responses were presented does not affect "
    "your judgment."
)
TEMPERATURE = 0.2
_LOWEST, _HIGHEST = 1, 10
CATEGORIES = ("conv", "detail", "complex")


@dataclass(frozen=True)
class Grades:
    """What a judge gave the reference's answer and the model's."""

    reference: float
    model: float

    @property
    def is_on_scale(self) -> bool:
        """Whether both are what the judge was asked for."""
        return all(_LOWEST <= grade <= _HIGHEST for grade in (self.reference, self.model))


UNREAD = Grades(-1.0, -1.0)


def grading_prompt(context: str | Sequence[str], question: str, reference: str, answer: str) -> str:
    """What the judge reads.

    Args:
        context: The captions that stand for the image.
        question: What was asked.
        reference: The reference's answer, shown first.
        answer: The model's answer.
    """
    shown = context if isinstance(context, str) else "\n".join(context)
    return (
        f"[Context]\n{shown}\n\n[Question]\n{question}\n\n"
        f"[{ROLE} 1]\n{reference}\n\n[End of {ROLE} 1]\n\n"
        f"[{ROLE} 2]\n{answer}\n\n[End of {ROLE} 2]\n\n"
        f"[System]\n{RULE}\n\n"
    )


def parse_review(review: str) -> Grades | None:
    """The two numbers on a review's first line, or None if it does not hold exactly two."""
    numbers = review.split("\n")[0].replace(",", " ").split(" ")
    if len(numbers) != 2:
        return None
    try:
        grades = Grades(float(numbers[0]), float(numbers[1]))
    except ValueError:
        return None
    return grades if math.isfinite(grades.reference) and math.isfinite(grades.model) else None


def llava_bench_scores(grades: Mapping[str, Sequence[Grades | None]]) -> dict[str, float | dict[str, float]]:
    """Relative scores.

    Args:
        grades: Grades by category; None is a grade that is missing.

    Returns:
        `score`, the percentage over all categories; `reference_score` and `model_score`, mean grades times ten; the
        same three `..._by_category`; and `missing`, a count. Rounded to one decimal as the official summary is.
    """
    scores: dict[str, float | dict[str, float]] = {}
    every = [grade for category in grades.values() for grade in category]
    scores |= _summary(every)
    names = sorted(category for category, values in grades.items() if any(each is not None for each in values))
    by_category = {name: _summary(grades[name]) for name in names}
    for score in list(scores):
        scores[f"{score}_by_category"] = {name: by_category[name][score] for name in names}
    scores["missing"] = float(every.count(None))
    return scores


def _summary(grades: Sequence[Grades | None]) -> dict[str, float]:
    known = [grade for grade in grades if grade is not None]
    reference = round(mean(grade.reference for grade in known), 3)
    model = round(mean(grade.model for grade in known), 3)
    return {
        "score": round(model / reference * 100, 1) if reference else 0.0,
        "reference_score": round(reference * 10, 1),
        "model_score": round(model * 10, 1),
    }
