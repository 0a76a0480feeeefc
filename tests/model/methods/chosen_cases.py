"""What the tests of methods share that keep attended patches or merge all: recorded cases, and features at random."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import TileShape, VisionFeatures, get_compressor
from llava.model.multimodal_compressor.feature_batches import split_features
from tests.model.methods.recorded import make_features

NEAR_TIE = 1e-6
"""Below this margin another order of float additions may choose otherwise."""

recorded_features = cache(make_features)


class Case(NamedTuple):
    """A recorded case: image `image` of `inputs`, K = `kept`."""

    inputs: str
    image: int
    kept: int


def parse(group: str) -> Case:
    """The case that a key such as `synth60/b1/K16/crops9` names."""
    match = re.match(r"(.+?)/b(\d+)/K(\d+)(?:/|$)", group)
    assert match is not None, group
    return Case(match[1], int(match[2]), int(match[3]))


def at_projector(features: VisionFeatures) -> VisionFeatures:
    """The same behind the projector."""
    assert features.projected is not None
    return replace(features, content=features.projected, has_cls=False)


def shape_of(features: VisionFeatures) -> TileShape:
    """The tile that features are of, in a model that offers every place."""
    places = ("tower", "pixels", "projected", "pooled")
    return TileShape(features.grid, features.saliency_has_cls, features.has_cls, places=places)


def budget_of(method: str, kept: int, **options: object) -> CompressionConfig:
    return CompressionConfig(method, kept, options=options)


def compress(features: VisionFeatures, method: str, kept: int, **options: object):
    """What a registered method returns; a single tile and the whole batch give the same."""
    found = get_compressor(method)(features, budget_of(method, kept, **options))
    batch = len(features.content)
    for index, alone in enumerate(split_features(features, [1] * batch) if batch > 1 else []):
        single = get_compressor(method)(alone, budget_of(method, kept, **options))
        assert torch.equal(single.positions[0], found.positions[index])
        assert torch.equal(single.sizes[0], found.sizes[index])
        torch.testing.assert_close(single.tokens[0], found.tokens[index])
    return found


def is_refused(features: VisionFeatures, method: str, kept: int, **options: object) -> str:
    """Why a method refuses a budget when a model is loaded; empty if it does not."""
    try:
        get_compressor(method).check(budget_of(method, kept, **options), shape_of(features))
    except ValueError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def random_features(
    batch: int,
    grid: tuple[int, int],
    *,
    channels: int = 8,
    seed: int = 0,
    has_cls: bool = True,
    values: int = 0,
    dtype: torch.dtype = torch.float32,
) -> VisionFeatures:
    """Seeded features with all that these methods read.

    Args:
        batch: B.
        grid: (h, w).
        channels: Of rows and keys.
        seed: Of the generator.
        has_cls: Whether the tower has a CLS token.
        values: If above 0, all are whole numbers below it: many patches are alike, and with 1 all are blank.
        dtype: Of rows.
    """
    generator = torch.Generator().manual_seed(seed)
    patches = grid[0] * grid[1]
    rows = patches + has_cls

    def draw(*shape: int) -> Tensor:
        if values:
            return torch.randint(values, shape, generator=generator).float()
        return torch.randn(shape, generator=generator)

    content = draw(batch, rows, channels).to(dtype)
    return VisionFeatures(
        content,
        grid,
        has_cls,
        content[:, int(has_cls) :],
        has_cls,
        keys=draw(batch, rows, channels),
        saliency=draw(batch, patches).abs() if values else draw(batch, patches).softmax(dim=1),
        last_layer_qk=(draw(batch, rows, channels).to(dtype), draw(batch, rows, channels).to(dtype)),
        projected=draw(batch, patches, channels).to(dtype),
        image_index=torch.arange(batch),
    )
