"""From a sample to the question that a model is asked, and whether it can be asked at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llava.eval.tasks import LoadedTask, Sample
from llava.inference import Question
from llava.kinds.families import clip_rules, find_family
from llava.video import Video


def question_of(sample: Sample) -> Question:
    """What is asked of a sample; a clip stands behind its images."""
    clips = () if sample.video is None else (Video(sample.video, sample.frames),)
    return Question(sample.prompt, (*sample.images, *clips))


def sees_video(config: Any) -> bool:
    """Whether the model of a config can be asked about clips: whether its family says how it sees them."""
    family = find_family(config)
    return family is not None and family.clips is not None


def as_seen(loaded: LoadedTask, config: Any) -> LoadedTask:
    """The samples with the number of frames that the model sees, where it sees no other."""
    if not sees_video(config) or not clip_rules(config).is_fixed:
        return loaded
    frames = clip_rules(config).frames
    samples = [each if each.video is None else replace(each, frames=frames) for each in loaded.samples]
    return replace(loaded, samples=samples)
