"""POPE: is the object there? Accuracy, precision, recall, F1 of yes, and how often yes is said.

The reading of an answer is that of POPE's `evaluate.py`, which LLaVA's `eval_pope.py` repeats: of the first sentence,
commas removed, the words between single spaces; "No", "no" or "not" among them means no, all else means yes - "NO", an
empty answer and a refusal too. The figure that papers quote is the mean of the three splits' F1.

lmms-eval takes an answer only if it is "yes" or "no" but for case; its "yes ratio" is that of the labels.
Where a denominator is zero the official script ends with an error; here the score is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llava.eval.metrics.averages import mean

SPLITS = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class PopeScores:
    """Counts of one split; "positive" is yes."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @property
    def total(self) -> int:
        """Number of questions."""
        return self.true_positives + self.false_positives + self.true_negatives + self.false_negatives

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return _ratio(self.true_positives + self.true_negatives, self.total)

    @property
    def precision(self) -> float:
        """Share of right ones among those answered yes."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of those answered yes among those that are yes."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def yes_ratio(self) -> float:
        """Share of questions answered yes."""
        return _ratio(self.true_positives + self.false_positives, self.total)

    def to_dict(self) -> dict[str, float]:
        """The five scores by name."""
        names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
        return {name: getattr(self, name) for name in names}


def says_yes(text: str) -> bool:
    """How POPE reads an answer."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


def count(answers: Iterable[tuple[str, str]]) -> PopeScores:
    """Counts one split.

    Args:
        answers: (what the model said, "yes" or "no") pairs.
    """
    pairs = [(says_yes(text), label != "no") for text, label in answers]
    return PopeScores(
        true_positives=pairs.count((True, True)),
        false_positives=pairs.count((True, False)),
        true_negatives=pairs.count((False, False)),
        false_negatives=pairs.count((False, True)),
    )


def pope_scores(answers: Mapping[str, Iterable[tuple[str, str]]]) -> dict[str, float | dict[str, float]]:
    """Scores of all splits.

    Args:
        answers: (what the model said, label) pairs by split.

    Returns:
        The mean over splits of each score, unweighted, and `<score>_by_split`.
    """
    by_split = {split: count(answers[split]).to_dict() for split in sorted(answers)}
    names = list(PopeScores(0, 0, 0, 0).to_dict())
    scores: dict[str, float | dict[str, float]] = {n: mean(split[n] for split in by_split.values()) for n in names}
    for name in names:
        scores[f"{name}_by_split"] = {split: values[name] for split, values in by_split.items()}
    return scores


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
