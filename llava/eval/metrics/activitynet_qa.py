"""ActivityNet-QA: accuracy by type of question, as its `evaluation/eval.py` groups the types.

That script takes the denominator of "Free" by position instead of by type: it leaves out the first three types in the
order in which the file of answers has them. The published test set begins with the types 3, 8 and 6, so that the
script divides by 4,021 where there are 5,600 such questions, and prints a figure 1.39 times too high. Here each share
is over its own questions; the script's other figures are the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from llava.eval.metrics.averages import mean_by_group

TYPES = (
    *("Motion", "Spatial Relation", "Temporal Relation"),
    *("Yes/No", "Color", "Object", "Location", "Number", "Other"),
)
"""By the number that stands in the file of answers."""
FREE = "Free"
"""All but the first three."""


def is_verbatim(text: str, answer: str) -> bool:
    """Whether a text is the answer letter by letter, which is that script's rule."""
    return text == answer


def by_type(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The mean of each type, and of all that are `FREE`.

    Args:
        values: (type, value) pairs, the type one of `TYPES`.
    """
    listed = list(values)
    free = [(FREE, value) for kind, value in listed if kind in TYPES[3:]]
    return mean_by_group([*listed, *free])
