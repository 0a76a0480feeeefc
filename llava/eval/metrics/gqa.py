"""GQA accuracy: the exact answer, after what LLaVA's `convert_gqa_for_eval.py` does to it.

LLaVA removes periods at the end and lowers the case, and GQA's `eval.py` then compares with `==`. lmms-eval compares
after lowering both sides and deleting all ASCII punctuation in them, so "t-shirt" equals "tshirt" there and not here,
and neither strips inner space. GQA's consistency, validity, plausibility and distribution need files that
testdev-balanced does not come with, and are not computed.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from dataclasses import dataclass

from llava.eval.metrics.averages import mean, mean_by_group, some

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class GqaAnswer:
    """A scored question.

    Attributes:
        correct: 1 or 0.
        structural: GQA's structural type (query, verify, logical, choose, compare), or "" if unknown.
        semantic: GQA's semantic type (obj, attr, rel, cat, global), or "" if unknown.
    """

    correct: float
    structural: str = ""
    semantic: str = ""


def normalise(text: str) -> str:
    """A prediction as LLaVA hands it to GQA's scorer."""
    return text.rstrip(".").lower()


def is_correct(prediction: str, answer: str) -> bool:
    """Whether a prediction is the answer, exactly."""
    return normalise(prediction) == answer


def is_correct_in_lmms_eval(prediction: str, answer: str) -> bool:
    """The same by lmms-eval's rule, which ignores case and punctuation on both sides."""
    return prediction.lower().translate(_NO_PUNCTUATION) == answer.lower().translate(_NO_PUNCTUATION)


def gqa_scores(answers: Iterable[GqaAnswer]) -> dict[str, float | dict[str, float]]:
    """Accuracy, overall and by type.

    Returns:
        `accuracy`; and where the types are known `binary` (all but query questions), `open` (query questions),
        `accuracy_by_structural_type` and `accuracy_by_semantic_type`. All between 0 and 1.
    """
    listed = some(answers)
    scores: dict[str, float | dict[str, float]] = {"accuracy": mean(answer.correct for answer in listed)}
    typed = [answer for answer in listed if answer.structural]
    if typed:
        scores["binary"] = mean(answer.correct for answer in typed if answer.structural != "query")
        scores["open"] = mean(answer.correct for answer in typed if answer.structural == "query")
        scores["accuracy_by_structural_type"] = mean_by_group((a.structural, a.correct) for a in typed)
        scores["accuracy_by_semantic_type"] = mean_by_group((a.semantic, a.correct) for a in typed)
    return scores
