"""Images that are encoded as far as no question is needed: wholly, or up to where a method chooses by the question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava.kinds.families import clip_rules
from llava.model.clips import ClipPixels
from llava.model.multimodal_compressor.feature_batches import join_features, split_features
from llava.model.vision_tokens import VisionTokens


@dataclass(frozen=True)
class SeenImage:
    """One image, or one video.

    Attributes:
        size: (w, h), before padding.
        features: (K, D) behind each of its placeholders, if no question is needed: one for an image.
        tokens: What is chosen from when the question is known; else None.
        frames: Of a video, the numbers of the frames that were seen; empty for an image.
    """

    size: tuple[int, int]
    features: tuple[Tensor, ...] | None
    tokens: VisionTokens | None = None
    frames: tuple[int, ...] = ()


Pixels = Tensor | Sequence[Tensor | ClipPixels]


def see_images(
    model: Any,
    pixels: Pixels,
    sizes: Sequence[tuple[int, int]],
    frames: Sequence[tuple[int, ...]] | None = None,
) -> list[SeenImage]:
    """Encodes images and videos.

    Args:
        model: A LLaVA model.
        pixels: As `encode_each` takes them.
        sizes: (w, h) of each.
        frames: Of each, the numbers of a video's frames; None where there are images only.
    """
    clips = [place for place, each in enumerate(pixels) if isinstance(each, ClipPixels)]
    if not clips:
        return _see_pictures(model, pixels, sizes)
    pictures = [place for place in range(len(pixels)) if place not in set(clips)]
    others = _see_pictures(model, [pixels[each] for each in pictures], [sizes[each] for each in pictures])
    found = dict(zip(pictures, others, strict=True))
    numbers = frames or [()] * len(pixels)
    seen = _see_clips(model, [pixels[each].pixels for each in clips])  # type: ignore[union-attr]
    for place, (features, tokens) in zip(clips, seen, strict=True):
        found[place] = SeenImage(sizes[place], features, tokens, numbers[place])
    return [found[place] for place in range(len(pixels))]


def _see_pictures(model: Any, pixels: Pixels, sizes: Sequence[tuple[int, int]]) -> list[SeenImage]:
    if not len(pixels):
        return []
    if not model.model.reads_questions:
        features = model.encode_each(pixels, image_sizes=sizes)
        return [SeenImage(size, (each,)) for size, each in zip(sizes, features, strict=True)]
    return [
        SeenImage(size, None, each)
        for size, each in zip(sizes, _apart(model.encode_towers(pixels, sizes)), strict=True)
    ]


def _see_clips(model: Any, clips: Sequence[Tensor]) -> Iterator[tuple[tuple[Tensor, ...] | None, VisionTokens | None]]:
    """What each video becomes: its features, or what they are chosen from."""
    base = model.model
    if not base.reads_questions:
        for features in base.clip_features(clips):
            yield tuple(features), None
        return
    counts = [len(pixels) for pixels in clips]
    for tokens in _apart(base.encode_clips(torch.cat(list(clips)), counts)):
        yield None, tokens


def _apart(seen: VisionTokens) -> list[VisionTokens]:
    """The tokens of several images, each by itself."""
    counts = seen.counts or [1] * len(seen.tokens)
    assert seen.features is not None  # a method that reads the question is late
    parts = split_features(seen.features, counts)
    rows = seen.tokens.split(list(counts))
    return [
        VisionTokens(row, None if seen.counts is None else [count], features=part)
        for row, count, part in zip(rows, counts, parts, strict=True)
    ]


def _together(waiting: Sequence[VisionTokens]) -> VisionTokens:
    """The inverse of `_apart`."""
    return VisionTokens(
        torch.cat([each.tokens for each in waiting]),
        None if waiting[0].counts is None else [len(each.tokens) for each in waiting],
        features=join_features([each.features for each in waiting if each.features is not None]),
    )


@torch.inference_mode()
def features_for(model: Any, seen: Sequence[SeenImage], questions: Sequence[str]) -> list[Tensor]:
    """(K, D) behind each placeholder of each image, for the question that it is shown with.

    Args:
        model: The model that has seen them.
        seen: Of `see_images`; an image may stand there with several questions.
        questions: One for each.
    """
    found = {place: image.features for place, image in enumerate(seen) if image.features is not None}
    for is_video in (False, True):
        places = [place for place, image in enumerate(seen) if place not in found and bool(image.frames) == is_video]
        if not places:
            continue
        tokens = _together([image.tokens for image in (seen[place] for place in places) if image.tokens is not None])
        asked = [questions[place] for place in places]
        if not is_video:
            chosen = model.project_each(tokens, [seen[place].size for place in places], asked)
            found |= {place: (rows,) for place, rows in zip(places, chosen, strict=True)}
            continue
        rows, rules = iter(model.model.project_clips(tokens, asked)), clip_rules(model.config)
        for place in places:
            found[place] = tuple(next(rows) for _ in range(rules.placeholders(len(seen[place].frames))))
    return [rows for place in range(len(seen)) for rows in found[place]]
