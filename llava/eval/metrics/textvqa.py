"""TextVQA accuracy as the M4C evaluator has it, which is what LLaVA's `eval_textvqa` runs.

It differs from VQA accuracy in the processor (`answer_text.evalai_answer`) and in that both sides are always
normalised. VizWiz val is scored in the same way by lmms-eval.
"""

from __future__ import annotations

from collections.abc import Sequence

from llava.eval.metrics.answer_text import evalai_answer
from llava.eval.metrics.vqa import leave_one_out


def textvqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Soft accuracy of one prediction.

    Args:
        prediction: What the model said.
        answers: The ten annotators' answers.

    Returns:
        A score between 0 and 1.
    """
    return leave_one_out(evalai_answer(prediction), [evalai_answer(answer) for answer in answers])
