"""MME: two yes/no questions an image; a category earns accuracy plus accuracy+ (both right), up to 200.

The rule is that of MME's `eval_tool/calculation.py`. Perception is the sum over ten categories (2000 at most),
cognition over four (800 at most), and the figure that the VisionZip paper quotes is the sum of the two.

The official tool reads the first four characters in lower case, without stripping: "yes" in them, else "no" in them.
lmms-eval strips, deletes periods and takes a lone "y" or "n" as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llava.eval.metrics.averages import mean, some

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")

_READ = 4


@dataclass(frozen=True)
class MmeAnswer:
    """An answered question.

    Attributes:
        category: One of `PERCEPTION` or `COGNITION`.
        image: What the two questions of a pair share.
        label: "Yes" or "No", in any case.
        text: What the model said.
    """

    category: str
    image: str
    label: str
    text: str


def parse(text: str) -> str:
    """`yes`, `no`, or `other` for what is neither."""
    start = text.lower()[:_READ]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def is_correct(text: str, label: str) -> bool:
    """Whether a text says what the label says."""
    return parse(text) == label.lower()


def mme_scores(answers: Iterable[MmeAnswer]) -> dict[str, float | dict[str, float]]:
    """Scores of all categories that occur.

    Returns:
        `total`, `perception` and `cognition`, sums of category scores; `score_by_category` (0 to 200);
        `accuracy_by_category` and `accuracy_plus_by_category` (0 to 1); `other_ratio`, the share of answers that are
        neither yes nor no.

    Raises:
        ValueError: A category is unknown, or an image has more than two questions.
    """
    listed = some(answers)
    unknown = {answer.category for answer in listed} - {*PERCEPTION, *COGNITION}
    if unknown:
        raise ValueError(f"MME has no category {sorted(unknown)}; it has {', '.join((*PERCEPTION, *COGNITION))}")
    accuracy: dict[str, float] = {}
    accuracy_plus: dict[str, float] = {}
    for category in (*PERCEPTION, *COGNITION):
        pairs: dict[str, list[bool]] = {}
        for answer in listed:
            if answer.category == category:
                pairs.setdefault(answer.image, []).append(is_correct(answer.text, answer.label))
        if not pairs:
            continue
        too_many = next((image for image, right in pairs.items() if len(right) > 2), None)
        if too_many is not None:
            raise ValueError(f"MME asks two questions an image; {category} has {len(pairs[too_many])} of {too_many!r}")
        accuracy[category] = mean(right for pair in pairs.values() for right in pair)
        # An image of which a question is missing cannot have both right.
        accuracy_plus[category] = mean(pair == [True, True] for pair in pairs.values())
    score = {category: accuracy[category] * 100 + accuracy_plus[category] * 100 for category in accuracy}
    perception = sum(score.get(category, 0.0) for category in PERCEPTION)
    cognition = sum(score.get(category, 0.0) for category in COGNITION)
    return {
        "total": perception + cognition,
        "perception": perception,
        "cognition": cognition,
        "score_by_category": score,
        "accuracy_by_category": accuracy,
        "accuracy_plus_by_category": accuracy_plus,
        "other_ratio": mean(parse(answer.text) == "other" for answer in listed),
    }
