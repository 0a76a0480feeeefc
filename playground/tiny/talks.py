"""What the language model of the tiny world is pre-trained on: conversations about scenes told in words."""

from __future__ import annotations

import numpy as np
from questions import ask_many, converse, read_scene, tell
from scenes import load_block, sample_scenes

from playground.pretraining.language_model import Talk


def compose(rng: np.random.Generator, count: int, short: bool = False) -> list[Talk]:
    """Writes `count` conversations about fresh scenes; short ones have one question and little darkness."""
    scenes = sample_scenes(rng, load_block(False), count)
    talks = []
    for index in range(count):
        digits = read_scene(scenes, index)
        pairs = [(q.text, q.answer) for q in ask_many(digits, 1, rng)] if short else converse(digits, rng)
        talks.append(Talk(tell(digits, rng, 0 if short else int(rng.integers(0, 9))), pairs))
    return talks
