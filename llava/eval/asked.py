"""From a sample to the question that a model is asked, and whether it can be asked at all."""

from __future__ import annotations

from typing import Any

from llava.eval.tasks import Sample
from llava.inference import Question
from llava.kinds.families import find_family


def question_of(sample: Sample) -> Question:
    """What is asked of a sample."""
    return Question(sample.prompt, tuple(sample.images))


def sees_video(config: Any) -> bool:
    """Whether the model of a config can be asked about clips: whether its family says how it sees them."""
    return getattr(find_family(config), "clips", None) is not None
