"""VQA soft accuracy: an answer is right as far as three of the other annotators gave it.

For each annotator in turn, the prediction earns min(matches among the others / 3, 1); the question's score is the mean
over annotators. What is compared is another matter, and moves the score:

- `vqa_accuracy`, for TextVQA, VQAv2 and VizWiz: both sides go through EvalAI's answer processor first. LLaVA does so
  with what it submits, and its figures are of such answers; its TextVQA evaluator (M4C) and lmms-eval do so with both.
- `raw_vqa_accuracy`, GT-Vision-Lab/VQA's `vqaEval.py` on the text as it is: it normalises only if the annotators
  disagree. Where all ten say `yes`, a model that says `Yes` earns nothing, and LLaVA begins with a capital.
"""

from __future__ import annotations

from collections.abc import Sequence

from llava.eval.metrics.answer_text import evalai_answer, normalise_words, one_line, strip_punctuation
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


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Soft accuracy of one prediction, both sides normalised first.

    Args:
        prediction: What the model said.
        answers: The annotators' answers, usually ten.

    Returns:
        A score between 0 and 1.
    """
    return leave_one_out(evalai_answer(prediction), [evalai_answer(answer) for answer in answers])


def raw_vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Soft accuracy of one prediction by the official script alone, which leaves unanimous answers as they are.

    Args:
        prediction: What the model said.
        answers: The annotators' answers, usually ten.

    Returns:
        A score between 0 and 1.
    """
    prediction = one_line(prediction)
    answers = [one_line(answer) for answer in answers]
    if len(set(answers)) > 1:
        prediction = normalise(prediction)
        answers = [normalise(answer) for answer in answers]
    return leave_one_out(prediction, answers)
