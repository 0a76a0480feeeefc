"""Precision and recall of "yes", apart: a budget can gain one at the other's cost, and F1 hides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from llava.eval.compare.intervals import ends_of
from llava.eval.compare.table import Figure
from llava.eval.doctor.diagnosis import Shift
from llava.eval.tasks import Sample, Task
from llava.results.bootstrap import resampled_sums
from llava.results.score_parts import ScoreParts, Sums

NAMES = ("precision", "recall", "f1", "yes said")
_COUNTS = 4  # of a split: right yes, wrong yes, wrong no, questions


def asks_yes_or_no(task: Task, samples: Sequence[Sample]) -> bool:
    """Whether every reference answer is yes or no, and there are both."""
    return {task.parse(sample.answer) for sample in samples} == {"yes", "no"}


def yes_shifts(
    task: Task, samples: Sequence[Sample], texts: tuple[Mapping[str, str], Mapping[str, str]], resamples: int
) -> list[Shift]:
    """Scores of "yes" with all tokens and with the budget, as POPE has them: of each split, then their mean.

    A question without an answer counts as answered wrongly. Splits are the groups of the samples.

    Args:
        task: A benchmark that asks yes or no.
        samples: Every question that counts.
        texts: What was said with all tokens, and with the budget, by sample id.
        resamples: Of the intervals; 0 for none.
    """
    splits = sorted({sample.group for sample in samples})
    rows = [[*_counts(task, s, texts[0], splits), *_counts(task, s, texts[1], splits)] for s in samples]
    parts = ScoreParts.collect([sample.image_names for sample in samples], rows, lambda sums: sums[:, 0])
    sides = _sides(parts.values.sum(axis=0, keepdims=True))
    drawn = _sides(resampled_sums(parts.values, resamples=resamples)) if resamples and len(parts.groups) > 1 else None
    shifts = []
    for name, before, after in zip(NAMES, *(side[:, 0] for side in sides), strict=True):
        place = NAMES.index(name)
        ends = (None, None) if drawn is None else ends_of(drawn[1][place] - drawn[0][place])
        shifts.append(Shift(name, float(before), float(after), Figure(float(after - before), *ends)))
    return shifts


def _counts(task: Task, sample: Sample, texts: Mapping[str, str], splits: Sequence[str]) -> list[float]:
    is_yes, text = task.parse(sample.answer) == "yes", texts.get(sample.sample_id)
    says_yes = not is_yes if text is None else task.parse(text) == "yes"
    own = (is_yes and says_yes, says_yes and not is_yes, is_yes and not says_yes, True)
    return [float(value and split == sample.group) for split in splits for value in own]


def _sides(sums: Sums) -> tuple[Sums, Sums]:
    """(4, R) scores in the order of `NAMES` of each side, from sums (R, V) of both."""
    width = sums.shape[1] // 2
    first, second = _scores(sums[:, :width]), _scores(sums[:, width:])
    return first, second


def _scores(sums: Sums) -> Sums:
    hits, false_yes, false_no, asked = (sums[:, start::_COUNTS] for start in range(_COUNTS))
    precision, recall = hits / np.maximum(hits + false_yes, 1), hits / np.maximum(hits + false_no, 1)
    f1 = 2 * hits / np.maximum(2 * hits + false_yes + false_no, 1)  # 0 without a hit, as the scorer has it
    yes_said = (hits + false_yes) / np.maximum(asked, 1)
    return np.stack([score.mean(axis=1) for score in (precision, recall, f1, yes_said)])
