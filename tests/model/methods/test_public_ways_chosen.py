"""The public ways that `benchmarks/compressor.py` times give the tokens that ours give."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.model.methods.chosen_cases import at_projector, compress, random_features

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
METHODS = ("fastervlm", "vispruner", "holov", "prumerge", "tome")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kept", [16, 24])
def test_a_public_way_gives_the_same_tokens(method, kept, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    ways = importlib.import_module("public_ways_chosen")
    assert set(ways.PUBLIC_WAYS) == set(ways.OUR_WAYS) == set(METHODS)
    features = random_features(3, (8, 8), channels=32, seed=7)
    heads = torch.rand(3, 4, 1, generator=torch.Generator().manual_seed(1))
    seen = features.saliency.unsqueeze(1) * heads
    features = replace(features, cls_attention=seen, saliency=seen.sum(dim=1))
    features = at_projector(features) if method == "holov" else features
    public, ours = (table[method](features, kept) for table in (ways.PUBLIC_WAYS, ways.OUR_WAYS))
    torch.testing.assert_close(ours, public)
    torch.testing.assert_close(compress(features, method, kept).tokens, ours)
