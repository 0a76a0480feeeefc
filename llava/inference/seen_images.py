"""Images that are encoded as far as no question is needed: wholly, or up to where a method chooses by the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava.model.multimodal_compressor.feature_batches import join_features, split_features
from llava.model.vision_tokens import VisionTokens


@dataclass(frozen=True)
class SeenImage:
    """One image.

    Attributes:
        size: (w, h), before padding.
        features: (K, D), if no question is needed.
        tokens: What is chosen from when the question is known; else None.
    """

    size: tuple[int, int]
    features: Tensor | None
    tokens: VisionTokens | None = None


def see_images(model: Any, pixels: Tensor | list[Tensor], sizes: Sequence[tuple[int, int]]) -> list[SeenImage]:
    """Encodes images.

    Args:
        model: A LLaVA model.
        pixels: As `encode_each` takes them.
        sizes: (w, h) of each.
    """
    if not model.model.reads_questions:
        features = model.encode_each(pixels, image_sizes=sizes)
        return [SeenImage(size, each) for size, each in zip(sizes, features, strict=True)]
    seen = model.encode_towers(pixels, sizes)
    counts = seen.counts or [1] * len(seen.tokens)
    parts = split_features(seen.features, counts)
    rows = seen.tokens.split(counts)
    tokens = [
        VisionTokens(row, None if seen.counts is None else [count], features=part)
        for row, count, part in zip(rows, counts, parts, strict=True)
    ]
    return [SeenImage(size, None, each) for size, each in zip(sizes, tokens, strict=True)]


@torch.inference_mode()
def features_for(model: Any, seen: Sequence[SeenImage], questions: Sequence[str]) -> list[Tensor]:
    """(K, D) of each image, for the question that it is shown with.

    Args:
        model: The model that has seen them.
        seen: Of `see_images`; an image may stand there with several questions.
        questions: One for each.
    """
    ready = [image.features for image in seen if image.features is not None]
    waiting = [image.tokens for image in seen if image.tokens is not None]
    if not waiting:
        return ready
    joined = VisionTokens(
        torch.cat([each.tokens for each in waiting]),
        None if waiting[0].counts is None else [len(each.tokens) for each in waiting],
        features=join_features([each.features for each in waiting if each.features is not None]),
    )
    found: list[Tensor] = model.project_each(joined, [image.size for image in seen], list(questions))
    return found
