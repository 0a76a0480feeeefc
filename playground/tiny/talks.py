"""What the language model of the tiny world is pre-trained on: conversations about scenes told in words."""

from __future__ import annotations

import numpy as np
from questions import ask_many, converse, read_scene, tell
from scenes import load_block, sample_scenes

from playground.pretraining.language_model import Talk
from playground.pretraining.plan import Lesson


def compose(rng: np.random.Generator, count: int, lesson: Lesson = "talks") -> list[Talk]:
    """Writes `count` conversations about fresh scenes; short ones have one question and no darkness."""
    is_whole = lesson == "talks"
    scenes = sample_scenes(rng, load_block(False), count)
    talks = []
    for index in range(count):
        digits = read_scene(scenes, index)
        pairs = converse(digits, rng) if is_whole else [(q.text, q.answer) for q in ask_many(digits, 1, rng)]
        talks.append(Talk(tell(digits, rng, int(rng.integers(0, 9)) if is_whole else 0), pairs))
    return talks
