"""What all greedy methods promise, by every rule: K distinct patches that depend on the image alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.methods.greedy_cases import GREEDY, keep, random_features, some_features, tiles_of

RULES = ("reference", "distinct")


@pytest.mark.parametrize("method", GREEDY)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_distinct_keeps_k_patches_and_none_twice(method, data):
    """Also of blank pictures, equal rows and any K."""
    patches = data.draw(st.integers(1, 14), label="patches")
    kept = data.draw(st.integers(1, patches), label="kept")
    values = data.draw(st.integers(0, 3), label="values")
    channels = data.draw(st.integers(1, 5), label="channels")
    features = random_features(2, patches, channels, data.draw(st.integers(0, 2**31)), values=values)
    if data.draw(st.booleans(), label="text-free"):
        features = replace(features, clip_joint=None)
    for row in keep(features, method, kept, rule="distinct").tolist():
        assert len(set(row)) == kept and row == sorted(row) and row[0] >= 0 and row[-1] < patches


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("method", GREEDY)
def test_a_batch_keeps_what_each_image_keeps_alone(method, rule):
    features = random_features(5, 40, 24, seed=3, images=[0, 0, 1, 2, 2])
    batched = keep(features, method, 20, rule=rule)
    for tiles in ([0, 1], [2], [3, 4]):
        assert torch.equal(batched[tiles], keep(tiles_of(features, tiles), method, 20, rule=rule))
    order = [3, 2, 4, 0, 1]
    assert torch.equal(batched[order], keep(tiles_of(features, order), method, 20, rule=rule))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("method", GREEDY)
def test_half_precision_is_compared_in_fp32(method, rule):
    features = random_features(2, 40, 24, seed=4)
    names = ("content", "source", "saliency")
    half = replace(features, **{name: getattr(features, name).bfloat16() for name in names})
    same = replace(half, **{name: getattr(half, name).float() for name in names})
    kept = keep(half, method, 20, rule=rule)
    assert torch.equal(kept, keep(same, method, 20, rule=rule))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(kept, keep(half, method, 20, rule=rule))


@pytest.mark.parametrize("method", GREEDY)
def test_gradients_reach_what_is_kept_and_nothing_else(method):
    features = random_features(2, 12, 6, seed=5)
    content = features.content.clone().requires_grad_()
    kept = keep(replace(features, content=content), method, 4)
    rows = content[torch.arange(2).unsqueeze(1), kept]
    rows.sum().backward()
    assert content.grad.sum() == rows.numel()


@pytest.mark.parametrize("method", GREEDY)
def test_features_are_left_as_they_are(method):
    features = random_features(2, 12, 6, seed=6)
    before = [tensor.clone() for tensor in (features.content, features.source, features.saliency)]
    keep(features, method, 4)
    for tensor, old in zip((features.content, features.source, features.saliency), before, strict=True):
        assert torch.equal(tensor, old)


def test_scope_reads_a_tower_without_cls():
    features = some_features()
    bare = replace(features, content=features.source, saliency_has_cls=False)
    assert torch.equal(keep(features, "scope", 16), keep(bare, "scope", 16))
