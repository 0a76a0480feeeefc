"""LLaVA's names for the M4C evaluator's rules, for programs that import them; the rules are in `metrics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llava.eval.metrics.answer_text import evalai_answer
from llava.eval.metrics.averages import mean
from llava.eval.metrics.vqa import vqa_accuracy


class EvalAIAnswerProcessor:
    """Normalises an answer as EvalAI's VQA server does."""

    def __call__(self, item: str) -> str:
        """The normalised answer."""
        return evalai_answer(item)


class TextVQAAccuracyEvaluator:
    """Soft accuracy of TextVQA."""

    def eval_pred_list(self, pred_list: Sequence[Mapping[str, Any]]) -> float:
        """Mean accuracy (0 to 1) of rows {pred_answer, gt_answers}, ten annotators' answers each."""
        return mean(vqa_accuracy(row["pred_answer"], row["gt_answers"]) for row in pred_list)
