"""MVBench: the option's letter, in the first word of the text.

The rule is that of MVBench's own notebook (`video_chat2/mvbench.ipynb`, `check_ans`): of the first line's first word,
without its periods, either it stands in `(a)` or `(a)` in it, in any case. So "A", "a.", "(A)" and "A)" name the
option; "A:" and "The answer is A" do not; and a lone "(" names every one. By that rule an empty text is right, too;
here it is wrong.

lmms-eval, which LLaVA-OneVision's figures are made with, compares otherwise: "A. ..." is the letter; else all goes
through VQA's treatment of punctuation, and the first letter from A to E that stands alone counts, "a dog" being an A.
Its share is over texts that are not empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from llava.eval.metrics.answer_text import one_line, strip_punctuation
from llava.eval.metrics.averages import mean, mean_by_group, some

TASKS = (
    *("action_sequence", "action_prediction", "action_antonym", "fine_grained_action", "unexpected_action"),
    *("object_existence", "object_interaction", "object_shuffle", "moving_direction", "action_localization"),
    *("scene_transition", "action_count", "moving_count", "moving_attribute", "state_change"),
    *("fine_grained_pose", "character_order", "egocentric_navigation", "episodic_reasoning"),
    "counterfactual_inference",
)
"""In the notebook's order; files are called so."""

_LETTER_AND_TEXT = re.compile(r"^([A-E])\.\s*(.+)$", re.IGNORECASE)
_LETTER_ALONE = re.compile(r"\b([A-E])\b", re.IGNORECASE)


@dataclass(frozen=True)
class MvAnswer:
    """A scored question.

    Attributes:
        correct: 1 or 0 by MVBench's rule.
        lmms_correct: The same by lmms-eval's; None of an empty text.
        task: One of `TASKS`.
    """

    correct: float
    lmms_correct: float | None
    task: str


def is_correct(text: str, answer: str) -> bool:
    """Whether a text names the option by MVBench's rule.

    Args:
        text: What the model said.
        answer: The option's letter.
    """
    said = text.strip().split("\n")[0].lower().split(" ")[0]
    option = f"({answer.lower()})"
    return said != "" and (said.replace(".", "") in option or option in said)


def is_correct_for_lmms_eval(text: str, answer: str) -> bool:
    """The same by lmms-eval's rule."""
    return _lmms_reading(text) == answer


def mvbench_scores(answers: Iterable[MvAnswer]) -> dict[str, float | dict[str, float]]:
    """Accuracies over questions; each of the 20 tasks has about 200.

    Returns:
        `accuracy`, `accuracy_by_task`, and `lmms_accuracy`.
    """
    listed = some(answers)
    return {
        "accuracy": mean(answer.correct for answer in listed),
        "accuracy_by_task": mean_by_group((answer.task, answer.correct) for answer in listed),
        "lmms_accuracy": mean(answer.lmms_correct for answer in listed if answer.lmms_correct is not None),
    }


def _lmms_reading(text: str) -> str:
    """The letter that lmms-eval reads, or the text in its form where there is none."""
    if found := _LETTER_AND_TEXT.match(text.strip()):
        return found[1].upper()
    text = strip_punctuation(one_line(text))
    for marks in ("'", '"', ")", "("):
        text = text.strip(marks)
    text = text.strip().lower()
    alone = _LETTER_ALONE.search(text)
    return alone[1].upper() if alone else text
