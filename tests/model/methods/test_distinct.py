"""Every K gives K different tokens under `rule=distinct`, whatever the picture shows; halves of precision too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import get_compressor
from tests.model.methods.chosen_cases import at_projector, compress, is_refused, random_features

METHODS = ("fastervlm", "vispruner", "prumerge", "prumerge_plus", "holov", "tome")
OPTIONS = {"holov": {"crops": 3}}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_token_stands_twice(data):
    method = data.draw(st.sampled_from(METHODS))
    grid = data.draw(st.tuples(st.integers(1, 6), st.integers(3, 6)), label="grid")
    has_cls = method.startswith("prumerge") or data.draw(st.booleans(), label="cls")
    kind = {"values": data.draw(st.integers(0, 2), label="values"), "seed": data.draw(st.integers(0, 99))}
    features = random_features(2, grid, channels=3, has_cls=has_cls, **kind)
    features = at_projector(features) if method == "holov" else features
    kept = data.draw(st.integers(1, grid[0] * grid[1]), label="K")
    options = {"rule": "distinct", **OPTIONS.get(method, {})}
    assert not is_refused(features, method, kept, **options)
    found = compress(features, method, kept, **options)
    for positions in found.positions.tolist():
        assert len(set(positions)) == kept and set(positions) <= set(range(grid[0] * grid[1]))
    assert bool((found.sizes > 0).all()) and bool(found.tokens.isfinite().all())


@pytest.mark.parametrize("method", [*METHODS, "pool"])
def test_rows_in_half_precision_are_computed_in_full(method):
    rows = random_features(2, (6, 8), channels=16, dtype=torch.bfloat16)
    whole = random_features(2, (6, 8), channels=16, dtype=torch.bfloat16)
    for name in ("content", "source", "projected"):
        object.__setattr__(whole, name, getattr(whole, name).float())
    object.__setattr__(whole, "last_layer_qk", tuple(part.float() for part in whole.last_layer_qk))
    if method == "holov":
        rows, whole = at_projector(rows), at_projector(whole)
    compressor = get_compressor(method)
    budget = CompressionConfig(method, 12, options={} if method == "pool" else {"rule": "distinct"})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = compressor(rows, budget)
    wanted = compressor(whole, budget)
    assert got.tokens.dtype is torch.bfloat16 and torch.equal(got.positions, wanted.positions)
    assert torch.equal(got.tokens, wanted.tokens.bfloat16())
