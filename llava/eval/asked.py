"""From a sample to the question that a model is asked, and whether it can be asked at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llava.eval.tasks import LoadedTask, Sample
from llava.inference import Question
from llava.kinds.clips import ClipRules
from llava.kinds.families import find_family
from llava.video import Video


def question_of(sample: Sample) -> Question:
    """What is asked of a sample; a clip stands behind its images."""
    clips = () if sample.video is None else (Video(sample.video, sample.frames),)
    return Question(sample.prompt, (*sample.images, *clips))


def clip_rules(config: Any) -> ClipRules | None:
    """How the model of a config sees clips; None if it sees none."""
    family = find_family(config)
    return None if family is None or family.clips is None else family.clips.of_config(config)


def as_seen(loaded: LoadedTask, config: Any) -> LoadedTask:
    """The samples with the number of frames that the model sees, where it sees no other."""
    rules = clip_rules(config)
    if rules is None or not rules.is_fixed:
        return loaded
    samples = [each if each.video is None else replace(each, frames=rules.frames) for each in loaded.samples]
    return replace(loaded, samples=samples)
