"""MMBench: which option a text names, and accuracy over single questions and over their rotations.

A question is asked as often as it has options, the options rotated; row `index` is the question, rows
`index + k * 10^6` are its rotations. Vanilla accuracy counts the questions as they are; circular accuracy counts a
question only if all its rotations are right. The paper's column is circular.

The option is found by VLMEvalKit's rules (`can_infer`), which is MMBench's own tool: a lone letter, or one option whose
text occurs in the answer. What they leave open the tool, as its server does, gives to a GPT; here, as under its
`exact_matching` policy, it is wrong. The rules change between its commits (3 of 846 verdicts between 2024-03 and
2026-08), so `RULES` names one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llava.eval.metrics.averages import mean, mean_by_group, some

RULES = "VLMEvalKit e8e78f0"
ROTATION = 1_000_000
NO_OPTION = "Z"

_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_API_FAILURE = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_SENTENCE = re.compile(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**")
_LAST_WORDS = 5


@dataclass(frozen=True)
class MmbenchAnswer:
    """An answered row.

    Attributes:
        index: The row's index, rotations included.
        answer: The right letter.
        text: What the model said.
        options: Option texts by letter.
        category: The ability that the question tests.
        l2_category: The group of abilities.
    """

    index: int
    answer: str
    text: str
    options: Mapping[str, str]
    category: str = ""
    l2_category: str = ""

    @property
    def correct(self) -> bool:
        """Whether the text names the right option; no text does where the table has no answer."""
        return self.answer != "" and infer(self.text, self.options) == self.answer


def infer_letter(text: str, letters: Iterable[str]) -> str:
    """The option whose letter a text names.

    Returns:
        A letter, `NO_OPTION` for a refusal, or "" if it is not clear.
    """
    if _API_FAILURE in text:
        return ""
    if any(refusal in text for refusal in _REFUSALS):
        return NO_OPTION
    known = list(letters)
    words = text.translate(_MARKS).split()
    named = [letter for letter in known if letter in words]
    # A letter far from the end is a word of a longer answer ("A cat ...").
    if len(named) == 1 and words.index(named[0]) > len(words) - _LAST_WORDS:
        return named[0]
    if not named and NO_OPTION in words:
        return NO_OPTION
    sentence = _SENTENCE.search(text)
    if sentence and sentence[1].upper() in known:
        return sentence[1].upper()
    return ""


def infer_text(text: str, options: Mapping[str, str]) -> str:
    """The one option whose words a text contains, in any case; "" if there is none, several, or the text is long."""
    if len(text.lower()) > 2 * sum(len(str(option)) for option in options.values()):
        return ""
    found = [letter for letter, option in options.items() if str(option).lower() in text.lower()]
    return found[0] if len(found) == 1 else ""


def infer(text: str, options: Mapping[str, str]) -> str:
    """The option that a text names: by its letter, else by its words.

    Args:
        text: What the model said.
        options: Option texts by letter.

    Returns:
        A letter, `NO_OPTION` for a refusal, or "" if it is not clear.
    """
    return infer_letter(text, options) or infer_text(text, options)


def mmbench_scores(answers: Iterable[MmbenchAnswer]) -> dict[str, float | dict[str, float]]:
    """Circular and vanilla accuracy.

    Rotations that are not among the answers are not asked for: of a file without rotations both figures are the same.

    Returns:
        `circular_accuracy`, `vanilla_accuracy`, and both `..._by_category` and `..._by_l2_category`.
    """
    groups: dict[int, list[MmbenchAnswer]] = {}
    for answer in some(answers):
        groups.setdefault(answer.index % ROTATION, []).append(answer)
    vanilla: list[tuple[MmbenchAnswer, float]] = []
    circular: list[tuple[MmbenchAnswer, float]] = []
    for index, rotations in groups.items():
        question = next((answer for answer in rotations if answer.index == index), None)
        if question is not None:
            vanilla.append((question, float(question.correct)))
            circular.append((question, float(all(answer.correct for answer in rotations))))
    scores: dict[str, float | dict[str, float]] = {}
    for name, hits in (("circular", circular), ("vanilla", vanilla)):
        scores[f"{name}_accuracy"] = mean(hit for _, hit in hits)
        scores[f"{name}_accuracy_by_category"] = mean_by_group((a.category, hit) for a, hit in hits if a.category)
        scores[f"{name}_accuracy_by_l2_category"] = mean_by_group(
            (a.l2_category, hit) for a, hit in hits if a.l2_category
        )
    return scores
