"""Videos among the images of a question: where they stand in its prompt, and how many tokens they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llava.images.source import FrameSource, ImageSource
from llava.images.workers import ImagePixels, join_pixels
from llava.kinds.families import clip_rules
from llava.model.clips import ClipPixels


def video_places(images: Sequence[ImageSource], config: Any) -> dict[int, int]:
    """Which images of a question are videos, and how many `<image>` each takes in the prompt of a model.

    Args:
        images: Of the question, videos among them.
        config: The model's.

    Raises:
        ValueError: The model sees no videos, or another number of frames than is asked for.
    """
    return {
        place: clip_rules(config).placeholders(image.num_frames(config))
        for place, image in enumerate(images)
        if isinstance(image, FrameSource)
    }


def are_several(images: Sequence[Any]) -> bool:
    """Whether images of one prompt stand beside others; a video is none."""
    return sum(not isinstance(image, FrameSource) for image in images) > 1


def joined_pixels(images: Sequence[ImagePixels]) -> Any:
    """What `encode_each` takes, of images and videos that could be read; `ClipPixels` for a video."""
    given = [image for image in images if image.pixels is not None]
    pictures = join_pixels([image.pixels for image in given if not image.indices and image.pixels is not None])
    if not any(image.indices for image in given):
        return pictures
    others = iter(pictures)
    return [ClipPixels(image.pixels) if image.indices and image.pixels is not None else next(others) for image in given]


def count_visual_tokens(model: Any, images: Sequence[ImageSource], sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Visual tokens behind each `<image>` of a prompt, before anything is encoded.

    Args:
        model: A LLaVA model.
        images: Of the prompt, videos among them.
        sizes: (w, h) of those that are no videos, in order.

    Raises:
        ValueError: As `video_places`, or the budget does not fit a frame.
    """
    pictures = iter(model.num_visual_tokens(sizes, of_one_prompt=True) if sizes else ())
    tokens: list[int] = []
    for image in images:
        if isinstance(image, FrameSource):
            tokens += model.num_clip_tokens(image.num_frames(model.config))
        else:
            tokens.append(next(pictures))
    return tokens
