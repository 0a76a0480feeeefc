"""MMMU: the option that a reply names, or the short answer that it contains.

The rules are those of MMMU's `eval_utils.py`, which lmms-eval and LLaVA's figures rest on:

- Multiple choice: "(A)", else a letter between spaces, else, in replies of more than five words, an option's text; of
  several the last. A reply that names none is given an option at random. The official script draws from one generator,
  seeded with 42, in the order of the questions; here each draw is seeded by the question's id, so that it depends on
  neither order nor number of processes. How many were drawn is reported.
- Open: what follows "is", "answer", "so" and their like, and every number in it, each compared with the answer: a text
  must contain it, a number must equal it after rounding to two decimals.

lmms-eval's parser also takes "A " and "A." anywhere in the reply before it looks for an option's text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llava.eval.metrics.averages import mean, mean_by_group, some

DOMAINS: dict[str, tuple[str, ...]] = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
SUBJECTS = tuple(sorted(subject for subjects in DOMAINS.values() for subject in subjects))
SEED = 42

_EDGES = (",", ".", "!", "?", ";", ":", "'")
_LONG_REPLY = 5
_SENTENCE_END = re.compile(r"\.\s(?=[A-Z])|\n")
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = frozenset({":", ",", ".", "!", "?", ";", "'"})
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,234,567
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1.5e-3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),  # 12, 1.5, .5
)


@dataclass(frozen=True)
class MmmuAnswer:
    """A scored question.

    Attributes:
        correct: 1 or 0.
        subject: One of `SUBJECTS`.
        drawn: Whether the option was drawn at random.
    """

    correct: float
    subject: str
    drawn: bool = False


def letters(options: Sequence[str]) -> tuple[str, ...]:
    """The letters of so many options: A, B, C..."""
    return tuple(chr(ord("A") + number) for number in range(len(options)))


def generator(sample_id: str) -> random.Random:
    """The generator that draws a question's option, the same in every run."""
    return random.Random(f"{SEED}:{sample_id}")


def parse_choice(text: str, options: Sequence[str]) -> str:
    """The option's letter that a reply names, or "".

    Args:
        text: What the model said.
        options: The texts of options A, B, C...
    """
    for mark in _EDGES:
        text = text.strip(mark)
    text = f" {text} "
    by_letter = dict(zip(letters(options), options, strict=True))
    for pattern in ("({})", " {} "):
        places = {letter: text.rfind(pattern.format(letter)) for letter in by_letter}
        if max(places.values(), default=-1) >= 0:
            return max(places, key=lambda letter: places[letter])
    if len(text.split()) > _LONG_REPLY:
        text = text.lower()
        places = {letter: text.rfind(option.lower()) for letter, option in by_letter.items()}
        if max(places.values(), default=-1) >= 0:
            return max(places, key=lambda letter: places[letter])
    return ""


def choose(text: str, options: Sequence[str], draw: random.Random) -> tuple[str, bool]:
    """The option's letter that a reply names, or one drawn at random.

    Args:
        text: What the model said.
        options: The texts of the options; at least one.
        draw: Where a draw comes from.

    Returns:
        The letter, and whether it was drawn.
    """
    letter = parse_choice(text, options)
    return (letter, False) if letter else (draw.choice(letters(options)), True)


def normalise(text: str) -> list[str | float]:
    """A text in the forms in which it is compared: a number rounded to two decimals, or lower case.

    A single character comes with a space before and with one after, so that it is not found inside a word.
    """
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def parse_open(text: str) -> list[str | float]:
    """What an open reply may be saying, normalised and without repeats."""
    parts = _key_parts(text)
    numbers = [number for part in parts for pattern in _NUMBERS for number in pattern.findall(part)]
    candidates = [form for candidate in (*parts, *numbers) for form in normalise(candidate)]
    return list(dict.fromkeys(candidates))


def is_correct_open(candidates: Iterable[str | float], answers: Sequence[str]) -> bool:
    """Whether one of the candidates is, or contains, one of the answers.

    Args:
        candidates: What `parse_open` returned.
        answers: The answers that count as right.
    """
    forms = [form for answer in answers for form in normalise(answer)]
    texts = [form for form in forms if isinstance(form, str)]
    return any(
        any(form in candidate for form in texts) if isinstance(candidate, str) else candidate in forms
        for candidate in candidates
    )


def subject_of(sample_id: str) -> str:
    """The subject in an id such as `validation_Art_Theory_12`."""
    return "_".join(sample_id.split("_")[1:-1])


def mmmu_scores(answers: Iterable[MmmuAnswer]) -> dict[str, float | dict[str, float]]:
    """Accuracies over questions.

    Returns:
        `accuracy` (micro average), `accuracy_by_domain`, `accuracy_by_subject`, and `drawn_ratio`, the share of
        questions whose option was drawn at random.
    """
    listed = some(answers)
    domain_of = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}
    return {
        "accuracy": mean(answer.correct for answer in listed),
        "accuracy_by_domain": mean_by_group((domain_of.get(a.subject, "unknown"), a.correct) for a in listed),
        "accuracy_by_subject": mean_by_group((answer.subject, answer.correct) for answer in listed),
        "drawn_ratio": mean(answer.drawn for answer in listed),
    }


def _key_parts(text: str) -> list[str]:
    """The ends of sentences that hold the answer; the whole text if there are none.

    The text is lower case before it is cut, so that in effect only line breaks cut it, as in the official code.
    """
    text = text.strip().strip(".").lower()
    sentences = _SENTENCE_END.split(text)
    parts = []
    for number, sentence in enumerate(sentences):
        indicators = (*_INDICATORS, "=") if number == len(sentences) - 1 else _INDICATORS
        ends = [sentence.split(word)[-1].strip() for word in indicators if word in sentence]
        part = _shortest(ends)
        if part and part not in _TRIVIAL:
            parts.append(part)
    return parts or [text]


def _shortest(ends: Sequence[str]) -> str:
    """The shortest; an empty one gives way to whatever comes after it, as in the official code."""
    shortest = ""
    for end in ends:
        if not shortest or len(end) < len(shortest):
            shortest = end
    return shortest
