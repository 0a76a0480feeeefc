"""What is asked and said about a crowded scene: questions, answers, captions, and a telling in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from playground.crowded.backgrounds import TEXTURES
from playground.crowded.scenes import COLOUR_NAMES, QUADRANTS, SLOTS, SceneBatch, kind_name
from playground.crowded.things import ALL_NAMES, FOOTPRINT, KINDS, NAMES, SIZES

ASKED = ("text", "which", "colour", "count", "side", "exist", "two-step")
"""Kinds of questions; `text` is of printed words and numbers, `colour` of small things."""
CAPTION_PROMPT = "Describe the picture."


@dataclass(frozen=True)
class Thing:
    """A thing in a scene.

    Attributes:
        name: One of ALL_NAMES.
        kind: One of KINDS.
        colour: One of COLOUR_NAMES.
        size: One of SIZES.
        row: The cell's row, 0..3.
        col: The cell's column, 0..3.
        patches: How many patches it covers.
    """

    name: str
    kind: str
    colour: str
    size: str
    row: int
    col: int
    patches: int

    @property
    def place(self) -> str:
        """The quadrant."""
        return QUADRANTS[2 * (self.row // 2) + self.col // 2]

    @property
    def said(self) -> str:
        """How a question refers to it."""
        return refer(self.kind, self.name)


@dataclass(frozen=True)
class Scene:
    """A scene in words."""

    things: tuple[Thing, ...]
    texture: str


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        text: What is asked.
        answer: In a word or two.
        kind: One of ASKED.
        patches: How many the thing covers that is to be read; None where there is no such one thing.
    """

    text: str
    answer: str
    kind: str
    patches: int | None = None


def refer(kind: str, name: str) -> str:
    """`the circle`, `the digit 7`, `the word sun`, `the number 47`."""
    return f"the {name}" if kind == "shape" else f"the {kind} {name}"


def read_scene(scenes: SceneBatch, index: int, world: str) -> Scene:
    """One scene in words, its things in the order of the slots."""
    things = []
    for slot in range(SLOTS):
        name, size, cell = (int(part[index, slot]) for part in (scenes.names, scenes.sizes, scenes.cells))
        if name >= 0:
            colour = COLOUR_NAMES[int(scenes.colours[index, slot])]
            patches = int(FOOTPRINT[name, size].prod())
            things.append(Thing(ALL_NAMES[name], kind_name(name), colour, SIZES[size], cell // 4, cell % 4, patches))
    return Scene(tuple(things), TEXTURES[world][int(scenes.textures[index])])


# ----- Questions ----------------------------------------------------------------

_T = TypeVar("_T")
Asker = Callable[[Scene, np.random.Generator], Question | None]


def _pick(rng: np.random.Generator, among: Sequence[_T]) -> _T:
    return among[int(rng.integers(len(among)))]


def _told_apart(scene: Scene, kinds: Sequence[str], by: Callable[[Thing], str]) -> list[Thing]:
    """Things of some kinds that no other of their kind shares `by` with."""
    seen = Counter((thing.kind, by(thing)) for thing in scene.things)
    return [thing for thing in scene.things if thing.kind in kinds and seen[thing.kind, by(thing)] == 1]


def _name_of(scene: Scene, rng: np.random.Generator, kinds: Sequence[str], asked: str) -> Question | None:
    by_colour = rng.random() < 0.5
    found = _told_apart(scene, kinds, (lambda t: t.colour) if by_colour else (lambda t: t.place))
    if not found:
        return None
    thing = _pick(rng, found)
    where = f"{thing.colour} {thing.kind}" if by_colour else f"{thing.kind} in the {thing.place}"
    text = f"What does the {where} say?" if thing.kind == "word" else f"What is the {where}?"
    return Question(text, thing.name, asked, thing.patches)


def _text(scene: Scene, rng: np.random.Generator) -> Question | None:
    return _name_of(scene, rng, ("word", "number"), "text")


def _which(scene: Scene, rng: np.random.Generator) -> Question | None:
    return _name_of(scene, rng, ("digit", "shape"), "which")


def _colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    small = [thing for thing in scene.things if thing.size == "small"]
    if not small:
        return None
    thing = _pick(rng, small)
    alone = sum(other.kind == thing.kind for other in small) == 1
    subject = f"the small {thing.kind}" if alone and rng.random() < 0.5 else thing.said
    return Question(f"What colour is {subject}?", thing.colour, "colour", thing.patches)


def _count(scene: Scene, rng: np.random.Generator) -> Question | None:
    kind = _pick(rng, KINDS)
    return Question(f"How many {kind}s are there?", str(sum(thing.kind == kind for thing in scene.things)), "count")


def _side(scene: Scene, rng: np.random.Generator) -> Question | None:
    first, second = (scene.things[int(index)] for index in rng.permutation(len(scene.things))[:2])
    return _compare(first, first.said, second, second.said, rng, "side")


def _compare(
    first: Thing, said: str, second: Thing, also_said: str, rng: np.random.Generator, kind: str
) -> Question | None:
    across = rng.random() < 0.5
    one, other = (first.col, second.col) if across else (first.row, second.row)
    if one == other:
        return None
    text = f"Is {said} {'left of' if across else 'above'} {also_said}?"
    return Question(text, "yes" if one < other else "no", kind)


def _exist(scene: Scene, rng: np.random.Generator) -> Question | None:
    thing = _pick(rng, scene.things)
    if rng.random() < 0.5:
        return Question(f"Is there {thing.said}?", "yes", "exist", thing.patches)
    names = {other.name for other in scene.things}
    absent = _pick(rng, [name for name in NAMES[thing.kind] if name not in names])
    return Question(f"Is there {refer(thing.kind, absent)}?", "no", "exist")


def _two_step(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Both things have to be found by their looks before their places can be compared."""
    found = _told_apart(scene, KINDS, lambda thing: thing.colour)
    if len(found) < 2:
        return None
    first, second = (found[int(index)] for index in rng.permutation(len(found))[:2])
    said, also_said = (f"the {thing.colour} {thing.kind}" for thing in (first, second))
    return _compare(first, said, second, also_said, rng, "two-step")


_ASKERS: dict[str, Asker] = dict(zip(ASKED, (_text, _which, _colour, _count, _side, _exist, _two_step), strict=True))


def ask(kind: str, scene: Scene, rng: np.random.Generator) -> Question | None:
    """Makes a question of a kind about a scene; yes and no are equally likely.

    Args:
        kind: One of ASKED.
        scene: The scene.
        rng: The source of chance.

    Returns:
        The question with its answer; None if by this chance the scene has none.
    """
    return _ASKERS[kind](scene, rng)


def ask_many(
    scene: Scene, count: int, rng: np.random.Generator, shares: Sequence[float] | None = None
) -> list[Question]:
    """Asks up to `count` different questions of random kinds about a scene.

    Args:
        scene: The scene.
        count: How many to draw; those drawn twice are asked once.
        rng: The source of chance.
        shares: How often each of ASKED is drawn; None for equally often.
    """
    asked: dict[str, Question] = {}
    for kind in rng.choice(ASKED, size=count, p=shares):
        question = ask(str(kind), scene, rng)
        if question is not None:
            asked.setdefault(question.text, question)
    return list(asked.values()) or [Question("How many digits are there?", _digits(scene), "count")]


def _digits(scene: Scene) -> str:
    return str(sum(thing.kind == "digit" for thing in scene.things))


# ----- Captions and tellings ----------------------------------------------------


def caption(scene: Scene, rng: np.random.Generator, most: int = 6) -> str:
    """Describes a scene: some of its things in any order, each with name, colour, size and place in any order.

    What comes after the first word of a thing can be told from that word and the scene alone, so a model learns from
    captions to look things up in the scene.
    """
    parts = []
    for index in rng.permutation(len(scene.things))[:most]:
        thing = scene.things[int(index)]
        facets = [f"{thing.kind} {thing.name}", thing.colour, thing.size, thing.place]
        parts.append(" ".join(facets[int(at)] for at in rng.permutation(len(facets))))
    return ", ".join(parts)


def converse(scene: Scene, rng: np.random.Generator, low: int = 6, high: int = 16) -> list[tuple[str, str]]:
    """Writes a conversation about a scene: questions with short answers and, in a quarter of them, a description.

    Args:
        scene: The scene.
        rng: The source of chance.
        low: The fewest questions to draw; those drawn twice are asked once.
        high: The most questions to draw.

    Returns:
        Questions and answers in turn.
    """
    pairs = [(q.text, q.answer) for q in ask_many(scene, int(rng.integers(low, high + 1)), rng)]
    if rng.random() < 0.25:
        pairs.insert(int(rng.integers(len(pairs) + 1)), (CAPTION_PROMPT, caption(scene, rng)))
    return pairs


def phrase_of(thing: Thing) -> str:
    """What a patch of a thing tells, its cell's row and column among it."""
    return f"{thing.colour} {thing.size} {thing.kind} {thing.name} {thing.place} r{thing.row} c{thing.col}"


def tell(scene: Scene, rng: np.random.Generator, longest: int = 6, copies: int = 4) -> list[str]:
    """Tells a scene as its patches will be seen: a phrase a patch, things again and again, background between.

    Args:
        scene: The scene.
        rng: The source of chance.
        longest: The longest run of background.
        copies: The most patches of a thing that are told.

    Returns:
        Phrases whose words are to be said at once.
    """
    seen = [thing for thing in scene.things for _ in range(int(rng.integers(1, min(copies, thing.patches) + 1)))]
    phrases: list[str] = []
    for index in rng.permutation(len(seen)):
        phrases += [scene.texture] * int(rng.integers(0, longest + 1))
        phrases.append(phrase_of(seen[int(index)]))
    return phrases + [scene.texture] * int(rng.integers(0, longest + 1))
