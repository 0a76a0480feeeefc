"""Video-MME: the first capital from A to D, once common openings are taken away.

The rule is that of `eval_your_results.py` (thanku-all/parse_answer), to which Video-MME's README points. Two commas
lack in its list of openings, so that "The best option is" and "Best answer:" stay as they are, and the B of the
latter is read as an answer. It leaves texts without a letter out of its accuracies, which is `answered_accuracy`
here; in `accuracy` they are wrong, as in lmms-eval, so that a model does not gain by saying nothing. lmms-eval 0.7.3
finds the letter by another rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from llava.eval.metrics.averages import mean, mean_by_group, some

LETTERS = ("A", "B", "C", "D")
DURATIONS = ("short", "medium", "long")
_OPENINGS = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    *("The best option isThe correct option is", "Best answer:Best option:"),
    *("Answer:", "Option:", "The correct answer", "The correct option"),
)
_LETTER = re.compile("[ABCD]")


@dataclass(frozen=True)
class VideoMmeAnswer:
    """A scored question.

    Attributes:
        correct: 1 or 0.
        answered: Whether the text has a letter.
        duration: One of `DURATIONS`.
        domain: One of six.
        sub_category: One of 30.
        task_type: One of 12.
    """

    correct: float
    answered: bool
    duration: str
    domain: str
    sub_category: str
    task_type: str


def parse_letter(text: str) -> str:
    """The letter that a text names, or ""."""
    for opening in _OPENINGS:
        text = text.replace(opening, "")
    found = _LETTER.search(text)
    return found[0] if found else ""


def videomme_scores(answers: Iterable[VideoMmeAnswer]) -> dict[str, float | dict[str, float]]:
    """Accuracies over questions.

    Returns:
        `accuracy`, `accuracy_by_duration`, `..._by_domain`, `..._by_sub_category`, `..._by_task_type`, and
        `answered_accuracy`.
    """
    listed = some(answers)
    scores: dict[str, float | dict[str, float]] = {"accuracy": mean(answer.correct for answer in listed)}
    for name in ("duration", "domain", "sub_category", "task_type"):
        scores[f"accuracy_by_{name}"] = mean_by_group((getattr(answer, name), answer.correct) for answer in listed)
    scores["answered_accuracy"] = mean(answer.correct for answer in listed if answer.answered)
    return scores
