"""VQA soft accuracy (VQAv2, VizWiz): an answer is right as far as three of the other annotators gave it.

The rule is that of GT-Vision-Lab/VQA (`vqaEval.py`). For each annotator in turn, the prediction earns
min(matches among the others / 3, 1); the question's score is the mean over annotators.

- The official code normalises only if the annotators disagree; a unanimous answer is compared as it is, in its case.
  lmms-eval normalises always.
- VizWiz's annotations hold no answer of the test split: its score comes from the server. On val, lmms-eval puts both
  sides through the M4C evaluator's processor (`textvqa.textvqa_accuracy`), as LLaVA does with what it submits.
"""

from __future__ import annotations

from collections.abc import Sequence

from llava.eval.metrics.answer_text import normalise_words, one_line, strip_punctuation
from llava.eval.metrics.averages import mean

_ENOUGH = 3


def normalise(text: str) -> str:
    """An answer in the form in which it is compared."""
    return normalise_words(strip_punctuation(one_line(text)))


def leave_one_out(prediction: str, answers: Sequence[str]) -> float:
    """Mean over annotators of how well the prediction agrees with the others.

    Args:
        prediction: Normalised prediction.
        answers: Normalised answers, one an annotator.

    Returns:
        A score between 0 and 1.
    """
    matches = sum(answer == prediction for answer in answers)
    return mean([min(1.0, (matches - (answer == prediction)) / _ENOUGH) for answer in answers])


def vqa_accuracy(prediction: str, answers: Sequence[str], *, always_normalise: bool = False) -> float:
    """Soft accuracy of one prediction.

    Args:
        prediction: What the model said.
        answers: The annotators' answers, usually ten.
        always_normalise: Whether unanimous answers are normalised too, as lmms-eval does.

    Returns:
        A score between 0 and 1.
    """
    prediction = one_line(prediction)
    answers = [one_line(answer) for answer in answers]
    if always_normalise or len(set(answers)) > 1:
        prediction = normalise(prediction)
        answers = [normalise(answer) for answer in answers]
    return leave_one_out(prediction, answers)
