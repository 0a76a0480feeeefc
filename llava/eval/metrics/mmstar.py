"""MMStar: the option's letter, at the start of the text or after one of three openings.

The rule is that of MMStar's own `eval/vlmeval/evaluate/mmstar.py`: in any case, edges stripped, the letter is the first
character, or the one after "(", "option " or "the answer is ". lmms-eval's later parser finds letters in more places.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llava.eval.metrics.averages import mean, mean_by_group, some

CATEGORIES = (
    *("coarse perception", "fine-grained perception", "instance reasoning"),
    *("logical reasoning", "science & technology", "math"),
)
LETTERS = ("A", "B", "C", "D")
_OPENINGS = ("", "(", "option ", "the answer is ")


@dataclass(frozen=True)
class StarAnswer:
    """A scored question.

    Attributes:
        correct: 1 or 0.
        category: One of `CATEGORIES`.
        l2_category: The axis within it, one of 18.
    """

    correct: float
    category: str
    l2_category: str


def is_correct(text: str, answer: str) -> bool:
    """Whether a text names the option.

    Args:
        text: What the model said.
        answer: The option's letter.
    """
    said, letter = (side.lower().strip().replace("\n", " ") for side in (text, answer))
    starts = (len(opening) for opening in _OPENINGS if said.startswith(opening))
    return any(said[start : start + 1] == letter for start in starts)


def mmstar_scores(answers: Iterable[StarAnswer]) -> dict[str, float | dict[str, float]]:
    """Accuracies over questions; of the whole benchmark each category has 250, so that it is their mean too.

    Returns:
        `accuracy`, `accuracy_by_category` and `accuracy_by_l2_category`.
    """
    listed = some(answers)
    return {
        "accuracy": mean(answer.correct for answer in listed),
        "accuracy_by_category": mean_by_group((answer.category, answer.correct) for answer in listed),
        "accuracy_by_l2_category": mean_by_group((answer.l2_category, answer.correct) for answer in listed),
    }
