"""The public ways that `benchmarks/compressor.py` times keep what ours keep."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.model.methods.greedy_cases import GREEDY, keep, random_features

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.mark.parametrize("method", GREEDY)
def test_a_public_way_keeps_the_same_patches(method, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    ways = importlib.import_module("public_ways")
    features = random_features(3, 48, 64, seed=7, images=[0, 0, 0])  # the public minimum and maximum are of the call
    features = replace(features, padding=torch.zeros_like(features.padding))
    public, ours = (table[method](features, 24) for table in (ways.PUBLIC_WAYS, ways.OUR_WAYS))
    assert torch.equal(public, ours)
    assert torch.equal(ours.sort(dim=1).values, keep(features, method, 24))
    assert set(ways.PUBLIC_WAYS) == set(ways.OUR_WAYS) == set(GREEDY)
