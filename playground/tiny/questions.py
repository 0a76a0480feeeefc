"""What is asked and said about a scene: questions, answers, captions, and a telling in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scenes import COLOUR_NAMES, QUADRANTS, SceneBatch

KINDS = ("which", "colour", "count", "exist", "where")
LOOK_ALIKE = {
    0: (6, 8),
    1: (7, 4),
    2: (3, 7),
    3: (8, 9),
    4: (9, 1),
    5: (3, 6),
    6: (0, 5),
    7: (1, 2),
    8: (3, 0),
    9: (4, 3),
}
CAPTION_PROMPT = "Describe the picture."


@dataclass(frozen=True)
class Digit:
    """A digit in a scene: its value, the name of its colour, the name of its quadrant."""

    value: int
    colour: str
    place: str


@dataclass(frozen=True)
class Question:
    """A question, its short answer, and its kind (one of KINDS)."""

    text: str
    answer: str
    kind: str


def read_scene(scenes: SceneBatch, index: int) -> list[Digit]:
    """Lists the digits of one scene in the order of the quadrants."""
    return [
        Digit(int(value), COLOUR_NAMES[int(scenes.colours[index, place])], QUADRANTS[place])
        for place, value in enumerate(scenes.labels[index])
        if value >= 0
    ]


def exist_question(value: int, digits: list[Digit]) -> Question:
    """Asks whether a digit of this value is there."""
    answer = "yes" if value in {digit.value for digit in digits} else "no"
    return Question(f"Is there a {value}?", answer, "exist")


def ask(kind: str, digits: list[Digit], rng: np.random.Generator) -> Question:
    """Makes a question of a kind about a scene, yes and no being equally likely.

    Args:
        kind: One of KINDS.
        digits: The scene.
        rng: The source of chance.

    Returns:
        The question with its answer.
    """
    digit = digits[int(rng.integers(len(digits)))]
    if kind == "which":
        return Question(f"Which digit is in the {digit.place}?", str(digit.value), kind)
    if kind == "where":
        return Question(f"Where is the {digit.value}?", digit.place, kind)
    if kind == "count":
        return Question("How many digits are there?", str(len(digits)), kind)
    if kind == "colour":
        subject = f"digit in the {digit.place}" if rng.random() < 0.5 else f"{digit.value}"
        return Question(f"What colour is the {subject}?", digit.colour, kind)
    if kind == "exist":
        absent = sorted(set(range(10)) - {other.value for other in digits})
        yes = rng.random() < 0.5
        return exist_question(digit.value if yes else absent[int(rng.integers(len(absent)))], digits)
    raise ValueError(f"unknown kind of question {kind!r}; known: {', '.join(KINDS)}")


def ask_many(digits: list[Digit], count: int, rng: np.random.Generator) -> list[Question]:
    """Asks up to `count` different questions of random kinds about a scene."""
    asked: dict[str, Question] = {}
    for kind in rng.choice(KINDS, size=count):
        question = ask(str(kind), digits, rng)
        asked.setdefault(question.text, question)
    return list(asked.values())


def caption(digits: list[Digit], rng: np.random.Generator) -> str:
    """Describes a scene: its digits in any order, of each its value, colour and place in any order.

    What comes after the first word of a digit can be told from that word and the scene alone, so a model learns from
    captions to look things up in the scene.
    """
    parts = []
    for index in rng.permutation(len(digits)):
        digit = digits[int(index)]
        facets = [str(digit.value), digit.colour, digit.place]
        parts.append(" ".join(facets[int(at)] for at in rng.permutation(len(facets))))
    return ", ".join(parts)


def converse(digits: list[Digit], rng: np.random.Generator, low: int = 4, high: int = 16) -> list[tuple[str, str]]:
    """Writes a conversation about a scene: questions with short answers and, in half of them, a description.

    Args:
        digits: The scene.
        rng: The source of chance.
        low: The fewest questions to draw; those drawn twice are asked once.
        high: The most questions to draw.

    Returns:
        Questions and answers in turn.
    """
    pairs = [(q.text, q.answer) for q in ask_many(digits, int(rng.integers(low, high + 1)), rng)]
    if rng.random() < 0.5:
        pairs.insert(int(rng.integers(len(pairs) + 1)), (CAPTION_PROMPT, caption(digits, rng)))
    return pairs


def tell(digits: list[Digit], rng: np.random.Generator, longest: int = 12) -> list[str]:
    """Tells a scene as its patches will be seen: a phrase a patch, things again and again, darkness between.

    Args:
        digits: The scene.
        rng: The source of chance.
        longest: The longest run of darkness.

    Returns:
        Phrases whose words are to be said at once.
    """
    phrases: list[str] = []
    seen = [digit for digit in digits for _ in range(int(rng.integers(1, 5)))]
    for index in rng.permutation(len(seen)):
        digit = seen[int(index)]
        phrases += ["dark"] * int(rng.integers(0, longest + 1))
        phrases.append(f"{digit.colour} {digit.value} {digit.place}")
    return phrases + ["dark"] * int(rng.integers(0, longest + 1))
