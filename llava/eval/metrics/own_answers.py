"""How an answer to a question of one's own is scored: whole, contained, by VQA's rule, or by the option's letter.

`vqa` and `choice` are the rules that TextVQA (`vqa_accuracy`) and MMBench (`infer`) are scored by here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from llava.eval.metrics.mmbench import infer
from llava.eval.metrics.vqa import vqa_accuracy

METRICS = {
    "exact": "the whole text is the answer, or one of several; letter case and a final period aside",
    "contains": "the text has the answer's words, or those of one of several, next to each other",
    "vqa": "VQA accuracy: an answer counts fully if three other annotators gave it",
    "choice": "the text names the right option, by its letter or by its words",
}
"""The rules by name, each in a line."""

_STARTS = r"(?<!\w)(?:(?<!\d[.,])|(?!\d))"  # no word goes on here, and no number as 3.5 or 1,500
_ENDS = r"(?!\w)(?:(?<!\d)|(?![.,]\d))"

FEWEST_ANNOTATORS = 4
"""With fewer answers nothing earns a full point of VQA accuracy."""


def plain(text: str) -> str:
    """Lower case; surrounding space and one final period removed."""
    return text.strip().removesuffix(".").strip().casefold()


def is_contained(answer: str, text: str) -> bool:
    """Whether a text has an answer's words next to each other, in any case: `no` is not in `north`, nor 3 in 3.5."""
    words = r"\s+".join(map(re.escape, plain(answer).split()))
    return bool(words) and re.search(f"{_STARTS}{words}{_ENDS}", text.casefold()) is not None


def _is_given(answer: str, text: str, is_letter: bool) -> bool:
    return plain(text) == plain(answer) if is_letter else is_contained(answer, text)


def earned(metric: str, text: str, answers: Sequence[str], options: Mapping[str, str]) -> float:
    """What a text earns, between 0 and 1.

    Args:
        metric: One of `METRICS`.
        text: What the model said.
        answers: The right answers; of `choice` the letter; of `vqa` one an annotator.
        options: Texts of the options by letter, for `choice`.

    Raises:
        ValueError: There is no such metric.
    """
    if metric == "exact":
        return float(plain(text) in map(plain, answers))
    if metric == "contains":
        # An option's letter must be the whole text: `a` is a word of most sentences.
        return float(any(_is_given(answer, text, answer in options) for answer in answers))
    if metric == "vqa":
        return vqa_accuracy(text, answers)
    if metric == "choice":
        return float(infer(text, options) in answers)
    raise ValueError(f"metric {metric!r} is none of {', '.join(METRICS)}")
