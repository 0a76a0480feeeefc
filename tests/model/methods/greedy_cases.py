"""What the tests of the greedy methods share: features at their places, and budgets read from recorded keys."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import ClipJoint, QuestionEmbeds, VisionFeatures, get_compressor
from tests.model.methods.recorded import load_inputs, make_features

NEAR_TIE = 1e-6
"""Below this margin another order of float additions may choose otherwise."""

GREEDY = ("divprune", "scope", "mmtok", "cdpruner")


class Case(NamedTuple):
    """A recorded case: image `image` of `inputs`, K = `kept`."""

    inputs: str
    image: int
    kept: int


def parse(group: str) -> Case | None:
    """The case that a key such as `synth60/b1/K16` names; None for one of another form."""
    match = re.fullmatch(r"(.+)/b(\d+)/K(\d+)", group)
    return None if match is None else Case(match[1], int(match[2]), int(match[3]))


@cache
def some_features() -> VisionFeatures:
    """Two tiles of one image of 60 patches, without padding, for tests that no recording is needed for."""
    features = random_features(2, 60, 64, seed=1, images=[0, 0])
    return replace(features, padding=torch.zeros_like(features.padding))


@cache
def recorded_features(case: str) -> VisionFeatures:
    """All tiles of a case behind the projector, as one image, with its texts."""
    given = load_inputs(case)
    features = make_features(case)
    batch, device = len(features.content), features.content.device
    return replace(
        features,
        content=given["projected"],
        has_cls=False,
        image_index=torch.zeros(batch, dtype=torch.int64, device=device),
        question_embeds=question_of(given["text_tokens"], batch),
        clip_joint=ClipJoint(given["image_embeds"], *_repeated(given["text_embeds"], batch)),
    )


def question_of(tokens: Tensor, batch: int) -> QuestionEmbeds:
    """The same question (T, D) for each tile."""
    return QuestionEmbeds(*_repeated(tokens, batch))


def keep(features: VisionFeatures, method: str, kept: int, **options: object) -> Tensor:
    """(B, K): the patches that a registered compressor keeps; its tokens are checked to be theirs."""
    budget = CompressionConfig(method, kept, options=options)
    found = get_compressor(method)(features, budget)
    rows = torch.arange(len(found.positions)).unsqueeze(1)
    assert torch.equal(found.tokens, features.patches[rows, found.positions])
    assert (found.num_dominant, found.num_contextual) == (kept, 0) and bool((found.sizes == 1).all())
    return found.positions


def tiles_of(features: VisionFeatures, which: slice | list[int]) -> VisionFeatures:
    """Some of the tiles; their images are numbered anew."""
    question, joint = features.question_embeds, features.clip_joint
    index = features.image_index
    return replace(
        features,
        content=features.content[which],
        source=features.source[which],
        saliency=None if features.saliency is None else features.saliency[which],
        padding=None if features.padding is None else features.padding[which],
        image_index=None if index is None else index[which].unique(return_inverse=True)[1],
        question_embeds=question and QuestionEmbeds(question.embeds[which], question.mask[which]),
        clip_joint=joint and ClipJoint(joint.image[which], joint.text[which], joint.mask[which]),
    )


def random_features(
    batch: int, patches: int, channels: int, seed: int, *, values: int = 0, images: list[int] | None = None
) -> VisionFeatures:
    """Seeded features behind a projector, with all that the greedy methods read.

    Args:
        batch: B.
        patches: N, as one row.
        channels: Of all rows.
        seed: Of the generator.
        values: If above 0, rows hold whole numbers below it, so that many are equal or blank.
        images: Of each tile; each is an image of its own by default.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        if values:
            return torch.randint(values, shape, generator=generator).float()
        return torch.randn(shape, generator=generator)

    words, parts = 3, 2
    mask = torch.arange(words) < torch.randint(1, words + 1, (batch, 1), generator=generator)
    return VisionFeatures(
        content=draw(batch, patches, channels),
        grid=(1, patches),
        has_cls=False,
        source=draw(batch, patches, channels),
        saliency_has_cls=True,
        saliency=draw(batch, patches).abs(),
        padding=torch.rand(batch, patches, generator=generator) < 0.3,
        image_index=torch.arange(batch) if images is None else torch.tensor(images),
        question_embeds=QuestionEmbeds(draw(batch, words, channels), mask),
        clip_joint=ClipJoint(
            draw(batch, patches, channels), draw(batch, parts, channels), torch.ones(batch, parts, dtype=torch.bool)
        ),
    )


def _repeated(rows: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Rows (T, D) for each tile (B, T, D), and that all of them are there (B, T)."""
    return rows.expand(batch, -1, -1), torch.ones(batch, len(rows), dtype=torch.bool)
