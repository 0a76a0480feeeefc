"""The compressors as pure functions: against a plain restatement of the paper and code, and on their invariants."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava.model.configuration import CompressionConfig, as_compression
from llava.model.multimodal_compressor import (
    VisionFeatures,
    available_compressors,
    get_compressor,
    register_compressor,
    visionzip,
)


def restated(hidden, keys, saliency, dominant, contextual, has_cls, merge):
    """VisionZip for one tile with loops and lists, from the paper's text and the code's semantics."""
    offset = int(has_cls)
    num_patches = len(hidden) - offset
    ranked = sorted(range(num_patches), key=lambda patch: -float(saliency[patch]))
    kept = sorted(ranked[: dominant - offset])
    left = [patch for patch in range(num_patches) if patch not in kept]
    rows = ([hidden[0]] if has_cls else []) + [hidden[patch + offset] for patch in kept]
    positions, sizes = ([-1] if has_cls else []) + kept, [1] * dominant
    if contextual:
        step = max(1, len(left) // contextual)
        targets = left[::step][:contextual]
        groups = {target: [] for target in targets}
        for patch in left:
            if patch not in groups:
                similarity = [
                    float(torch.cosine_similarity(keys[patch + offset], keys[target + offset], dim=0))
                    for target in targets
                ]
                groups[targets[similarity.index(max(similarity))]].append(patch)
        for target, members in groups.items():
            members_mean = sum(hidden[patch + offset] for patch in members) / max(len(members), 1)
            value = hidden[target + offset] + members_mean
            if merge == "mean":
                value = (hidden[target + offset] + members_mean * len(members)) / (1 + len(members))
            rows.append(value)
            positions.append(target)
            sizes.append(1 + len(members))
    return torch.stack(rows), positions, sizes


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_visionzip_equals_a_plain_restatement(data):
    num_patches = data.draw(st.integers(1, 30), label="patches")
    has_cls = data.draw(st.booleans(), label="cls")
    most = num_patches + has_cls
    dominant = data.draw(st.integers(1, most), label="dominant")
    contextual = data.draw(st.integers(0, most - dominant), label="contextual")
    merge = data.draw(st.sampled_from(["reference", "mean"]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    hidden = torch.randn(2, most, 5, generator=generator)
    keys = torch.randn(2, most, 3, generator=generator)
    saliency = torch.rand(2, num_patches, generator=generator)
    got = visionzip(
        hidden,
        keys,
        saliency,
        dominant=dominant,
        contextual=contextual,
        has_cls=has_cls,
        merge=merge,
        return_assignment=True,
    )
    assert got.tokens.shape == (2, dominant + contextual, 5)
    assert (got.num_dominant, got.num_contextual) == (dominant, contextual)
    for tile in range(2):
        rows, positions, sizes = restated(
            hidden[tile], keys[tile], saliency[tile], dominant, contextual, has_cls, merge
        )
        torch.testing.assert_close(got.tokens[tile], rows, atol=1e-5, rtol=1e-5)
        assert got.positions[tile].tolist() == positions
        assert got.sizes[tile].tolist() == sizes
        held = got.assignment[tile].tolist()
        for row in range(dominant + contextual):
            expected = 0 if positions[row] < 0 else sizes[row]
            assert held.count(row) == expected
        dropped = most - sum(sizes) if contextual == 0 else 0
        assert held.count(-1) == dropped


def features(batch: int = 3, patches: int = 16, has_cls: bool = True, seed: int = 0) -> VisionFeatures:
    generator = torch.Generator().manual_seed(seed)
    total = patches + has_cls
    content = torch.randn(batch, total, 6, generator=generator)
    return VisionFeatures(
        content,
        (4, patches // 4),
        has_cls,
        content[:, has_cls:],
        has_cls,
        torch.randn(batch, total, 3, generator=generator),
        torch.rand(batch, patches, generator=generator),
        torch.randint(-(2**62), 2**62, (batch,), generator=generator),
    )


def single(whole: VisionFeatures, index: int) -> VisionFeatures:
    part = slice(index, index + 1)
    return VisionFeatures(
        whole.content[part],
        whole.grid,
        whole.has_cls,
        whole.source[part],
        whole.saliency_has_cls,
        whole.keys[part],
        whole.saliency[part],
        whole.digest[part],
    )


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize("method", ["visionzip", "random", "uniform"])
def test_batch_equals_batch_one(method, has_cls):
    whole = features(has_cls=has_cls)
    budget = CompressionConfig(method, 6, 2)
    together = get_compressor(method)(whole, budget)
    for index in range(3):
        alone = get_compressor(method)(single(whole, index), budget)
        assert torch.equal(together.positions[index], alone.positions[0])
        torch.testing.assert_close(together.tokens[index], alone.tokens[0])


def test_random_depends_on_pixels_and_seed_and_is_uniform():
    whole = features(batch=4000)
    first = get_compressor("random")(whole, CompressionConfig("random", 4, 0)).positions
    assert torch.equal(first, get_compressor("random")(whole, CompressionConfig("random", 4, 0)).positions)
    other = get_compressor("random")(whole, CompressionConfig("random", 4, 0, seed=1)).positions
    assert (first != other).any(dim=1).float().mean() > 0.9
    assert len({tuple(row) for row in first.tolist()}) > 1000
    share = torch.bincount(first.flatten(), minlength=16) / 4000  # each patch is kept with probability 1/4
    assert (share - 0.25).abs().max() < 0.035  # five standard deviations
    assert all(row == sorted(set(row)) for row in first[:50].tolist())


@pytest.mark.parametrize("count", [1, 3, 5, 16])
def test_uniform_covers_the_raster(count):
    positions = get_compressor("uniform")(features(), CompressionConfig("uniform", count, 0)).positions[0].tolist()
    assert len(set(positions)) == count and positions == sorted(positions)
    gaps = [b - a for a, b in itertools.pairwise(positions)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("dominant", "contextual", "message"),
    [
        (18, 0, r"dominant=18 is outside 1\.\.17"),
        (17, 1, r"contextual=1 is outside 0\.\.0"),
        (10, 8, r"contextual=8 is outside 0\.\.7"),
        (540, 100, r"from_total\(640, tiles=5\)"),
    ],
)
def test_impossible_budgets_are_refused_with_the_range(dominant, contextual, message):
    whole = features()
    with pytest.raises(ValueError, match=message):
        visionzip(whole.content, whole.keys, whole.saliency, dominant=dominant, contextual=contextual)


@pytest.mark.parametrize(("dominant", "contextual"), [(0, 4), (-1, 4), (4, -1)])
def test_negative_budgets_are_refused(dominant, contextual):
    with pytest.raises(ValueError, match="must be at least"):
        CompressionConfig("visionzip", dominant, contextual)


def test_short_forms():
    assert CompressionConfig.parse("visionzip:54+10") == CompressionConfig("visionzip", 54, 10)
    assert CompressionConfig.parse("random:64") == CompressionConfig("random", 64, 0)
    assert CompressionConfig.parse("none") is None and as_compression(None) is None
    assert (
        str(CompressionConfig(dominant=54, contextual=10)) == "visionzip:54+10"
        and str(CompressionConfig("uniform", 9, 0)) == "uniform:9"
    )
    assert as_compression(CompressionConfig("random", 9).to_dict()) == CompressionConfig("random", 9)
    assert CompressionConfig(method="random", dominant=49).num_tokens == 49  # what is not asked for is not kept
    for text in ("visionzip", "visionzip:", "visionzip:a+b", "visionzip:5+", "visionzip:-5+3", "54+10", ""):
        with pytest.raises(ValueError, match="is not of the form"):
            CompressionConfig.parse(text)
    with pytest.raises(ValueError, match="unknown entries in compression: budget"):
        CompressionConfig.from_dict({"budget": 3})
    with pytest.raises(TypeError, match="must be an int"):
        CompressionConfig(dominant=54.0)
    with pytest.raises(ValueError, match="seed is outside"):
        CompressionConfig(seed=2**70)
    with pytest.raises(ValueError, match=r"merge must be one of"):
        CompressionConfig(merge="sum")


@pytest.mark.parametrize(
    ("total", "tiles", "dominant", "contextual"),
    [(192, 1, 162, 30), (128, 1, 108, 20), (64, 1, 54, 10), (640, 5, 108, 20), (320, 5, 54, 10), (160, 5, 27, 5)],
)
def test_the_papers_totals(total, tiles, dominant, contextual):
    budget = CompressionConfig.from_total(total, tiles=tiles)
    assert (budget.dominant, budget.contextual) == (dominant, contextual)


@pytest.mark.parametrize(("total", "tiles"), [(641, 5), (0, 5), (3, 5), (64, 0)])
def test_totals_that_do_not_divide_are_refused(total, tiles):
    with pytest.raises(ValueError, match="does not divide evenly"):
        CompressionConfig.from_total(total, tiles=tiles)


def test_a_total_of_a_video_is_shared_by_its_frames():
    assert str(CompressionConfig.from_total(136, frames=8)) == "visionzip:14+3"
    assert str(CompressionConfig.from_total(80, method="random", frames=8)) == "random:8+2"
    with pytest.raises(ValueError, match="a total of 135 tokens does not divide evenly over 8 frames"):
        CompressionConfig.from_total(135, frames=8)
    with pytest.raises(ValueError, match="of an image or of a video"):
        CompressionConfig.from_total(640, tiles=5, frames=8)


def test_the_registry_names_what_it_has():
    assert {"random", "uniform", "visionzip"} <= set(available_compressors())
    with pytest.raises(ValueError, match="unknown compression method 'zip'; there are: "):
        get_compressor("zip")
    with pytest.raises(ValueError, match="is registered already"):
        register_compressor("visionzip")(lambda features, budget: None)
    with pytest.raises(ValueError, match="needs values; there are keys, saliency, digest"):
        register_compressor("greedy", needs={"values"})


def test_a_compressor_that_breaks_its_budget_is_caught():
    from llava.model.multimodal_compressor.registry import Compressor

    def one_too_many(seen: VisionFeatures, budget: CompressionConfig):
        return get_compressor("uniform")(seen, CompressionConfig("uniform", budget.num_tokens + 1, 0))

    with pytest.raises(RuntimeError, match="returned 5 tokens"):
        Compressor("greedy", one_too_many, frozenset(), False)(features(), CompressionConfig("greedy", 4, 0))
