"""Every registered compressor computes on the device of its features alone, and as one graph."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import (
    BoundCompressor,
    ClipJoint,
    CompressedTokens,
    Place,
    QuestionEmbeds,
    TileShape,
    VisionFeatures,
    get_compressor,
    keep_patches,
)
from tests.model.meta_clean import MetaClean
from tests.model.own_methods import OWN_METHODS

GRID, KEPT, CHANNELS, WIDTH, HEADS = (6, 8), 12, 16, 24, 4
BUDGETS = {"visionzip": "visionzip:9+3", "prumerge_plus": "prumerge_plus:12,rule=distinct"}
"""Of methods for which `METHOD:12` is not the budget to try."""


def make_features(place: Place, device: str, batch: int = 3) -> VisionFeatures:
    """Features with all optional fields, on a device."""
    patches = GRID[0] * GRID[1]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    def true(*shape: int) -> Tensor:
        return torch.ones(shape, dtype=torch.bool, device=device)

    rows = draw(batch, patches + 1, CHANNELS)
    projected, is_late = draw(batch, patches, WIDTH), place in ("projected", "pooled")
    attention = draw(batch, HEADS, patches).softmax(dim=-1)
    return VisionFeatures(
        content=projected if is_late else rows,
        grid=GRID,
        has_cls=not is_late,
        source=rows[:, 1:],
        saliency_has_cls=True,
        keys=draw(batch, patches + 1, 4),
        saliency=attention.sum(dim=1),
        digest=torch.arange(batch).to(device),
        cls_attention=attention,
        last_layer_qk=(draw(batch, patches + 1, CHANNELS), draw(batch, patches + 1, CHANNELS)),
        projected=projected,
        image_index=torch.tensor([0, 0, 1]).to(device),
        padding=~true(batch, patches),
        question_embeds=QuestionEmbeds(draw(batch, 5, WIDTH), true(batch, 5)),
        clip_joint=ClipJoint(draw(batch, patches, 8), draw(batch, 2, 8), true(batch, 2)),
    )


def bound_at_each_place(method: str) -> list[tuple[Place, BoundCompressor]]:
    """The method as it stands in models that offer one place each; where it only shrinks pictures there is none."""
    compressor = get_compressor(method)
    budget = CompressionConfig.parse(BUDGETS.get(method, f"{method}:{KEPT}"))
    places = [place for place in compressor.places if place != "pixels"]
    tiles = [TileShape(GRID, True, place == "tower", places=(place,)) for place in places]
    return [(place, compressor.bind(budget, tile)) for place, tile in zip(places, tiles, strict=True)]


@pytest.mark.parametrize("method", OWN_METHODS)
def test_every_compressor_stays_on_its_device(method):
    for place, bound in bound_at_each_place(method):
        features = make_features(place, "meta")
        with MetaClean():
            kept = bound(features)
        assert kept.tokens.device.type == kept.positions.device.type == kept.sizes.device.type == "meta"
        assert kept.tokens.shape == (3, KEPT, features.content.shape[2])


@pytest.mark.parametrize("method", OWN_METHODS)
def test_every_compressor_is_one_graph(method):
    torch._dynamo.reset()
    for place, bound in bound_at_each_place(method):
        features = make_features(place, "cpu")
        graph = torch.compile(bound, backend="eager", fullgraph=True, dynamic=False)
        got, wanted = graph(features), bound(features)
        assert torch.equal(got.positions, wanted.positions)
        torch.testing.assert_close(got.tokens, wanted.tokens)


def faulty(features: VisionFeatures) -> CompressedTokens:
    """Keeps the first patches, by an index that was made on the CPU."""
    kept = keep_patches(features, torch.zeros(3, KEPT, dtype=torch.int64, device="meta"))
    return replace(kept, tokens=features.patches[:, torch.arange(KEPT)])


def test_an_index_on_the_cpu_is_found():
    features = make_features("tower", "meta")
    faulty(features)  # `meta` alone does not mind
    with MetaClean(), pytest.raises(AssertionError, match=r"index.*mixes devices: \(12,\) on cpu"):
        faulty(features)


def test_numbers_of_python_may_mix():
    with MetaClean():
        assert (torch.ones(3, device="meta") * torch.tensor(2.0)).device.type == "meta"
