"""What the language model of the crowded world is pre-trained on: conversations about scenes told in words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from playground.crowded.questions import ASKED, CAPTION_PROMPT, Scene, ask_many, caption, converse, read_scene, tell
from playground.crowded.scenes import SLOTS, sample_scenes
from playground.crowded.things import load_bank
from playground.pretraining.language_model import Talk
from playground.pretraining.plan import Lesson

# Yes and no tell a model least and are learned last, so short talks ask for them more often.
_SHARES = tuple({"side": 0.2, "exist": 0.25, "two-step": 0.2, "count": 0.15}.get(kind, 0.2 / 3) for kind in ASKED)


def composer(world: str) -> Callable[[np.random.Generator, int, Lesson], list[Talk]]:
    """What writes conversations about fresh scenes of a world."""
    bank = load_bank("train")  # no picture is painted, but scenes are drawn from it

    def compose(rng: np.random.Generator, count: int, lesson: Lesson) -> list[Talk]:
        is_whole = lesson == "talks"
        most = SLOTS if is_whole else int(rng.integers(3, SLOTS + 1))  # to look up is learned first among few things
        scenes = sample_scenes(rng, bank, world, count, 4 if is_whole else 2, most)
        talks = []
        for index in range(count):
            scene = read_scene(scenes, index, world)
            pairs = converse(scene, rng) if is_whole else _short(scene, rng, lesson)
            background, copies = (int(rng.integers(0, 5)), int(rng.integers(1, 7))) if is_whole else (0, 1)
            talks.append(Talk(tell(scene, rng, background, copies), pairs))
        return talks

    return compose


def _short(scene: Scene, rng: np.random.Generator, lesson: Lesson) -> list[tuple[str, str]]:
    """A few questions, and at first often a caption: nearly every word of one is a lesson in looking things up."""
    asked = ask_many(scene, 4, rng, _SHARES)
    pairs = [(question.text, question.answer) for question in asked]
    if lesson == "captions" and rng.random() < 0.75:
        pairs.insert(0, (CAPTION_PROMPT, caption(scene, rng)))
    return pairs
