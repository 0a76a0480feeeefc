"""Coverage against recorded choices of SCOPE and of MMTok's visual half, and against plain loops over the patches."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import CompressedTokens, TileShape, VisionFeatures, get_compressor
from llava.model.multimodal_compressor.coverage import CoverageOptions, merge_left, selection_order
from tests.model.methods.greedy_cases import NEAR_TIE, keep, parse, random_features, some_features, tiles_of
from tests.model.methods.recorded import Recording, make_features

AS_SCOPE = {"weights": "cosine", "strength": 0.0}
AS_MMTOK = {"alpha": 0.0, "strength": 0.0}


def without_padding(features: VisionFeatures) -> VisionFeatures:
    return replace(features, padding=None)


def compress(features: VisionFeatures, kept: int, **options: object) -> CompressedTokens:
    return get_compressor("coverage")(features, CompressionConfig("coverage", kept, options=options))


# ----- Recorded choices ----------------------------------------------------------


def test_with_cosines_it_chooses_as_scope_was_recorded_to():
    recorded = Recording("scope")
    for group in recorded.groups("selected"):
        variant = re.fullmatch(r"(.+)/alpha([\d.]+)/K(\d+)", group)
        case, image, kept = (variant[1], 0, int(variant[3])) if variant else parse(group)
        alpha = float(variant[2]) if variant else 1.0
        features, wanted = make_features(case), recorded[f"{group}/selected"]
        order = selection_order(features, kept, CoverageOptions(alpha=alpha, **AS_SCOPE)).order
        same = np.array_equal(order if variant else order[image], wanted)
        positions = keep(features, "coverage", kept, alpha=alpha, **AS_SCOPE)
        same &= np.array_equal(positions if variant else positions[image], np.sort(wanted))
        is_tie = False
        if not variant:
            same &= np.array_equal(positions[image], recorded[f"{group}/kept"])
            is_tie = bool(recorded[f"{group}/margin_rel"] < NEAR_TIE)
            is_tie |= bool(recorded[f"{group}/agrees_with_float64_for"] < kept)
        recorded.compare(group, same, near_tie=is_tie)
    recorded.name = "coverage, set as SCOPE"
    recorded.finish()


def test_with_shares_and_no_saliency_it_chooses_as_mmtoks_visual_half_was_recorded_to():
    recorded = Recording("mmtok")
    for group in recorded.groups("selected"):
        head = group.removesuffix("/Qonly")
        case, image, kept = parse(head)
        features, wanted = replace(make_features(case), saliency=None), recorded[f"{group}/selected"]
        order = selection_order(features, kept, CoverageOptions(**AS_MMTOK)).order[image]
        same = np.array_equal(order, wanted)
        same &= np.array_equal(keep(features, "coverage", kept, **AS_MMTOK)[image], np.sort(wanted))
        is_tie = recorded.get(f"{head}/visual/margin_rel", 1.0) < NEAR_TIE
        recorded.compare(group, same, near_tie=bool(is_tie))
    assert recorded.cases and not recorded.wrong, recorded.wrong


# ----- The selection, by loops -----------------------------------------------------


def plain_weights(features: VisionFeatures, tile: int, options: CoverageOptions) -> np.ndarray:
    """(P, P), in float64."""
    rows = features.source[tile].double().numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    weights = unit @ unit.T
    if options.weights == "shares":
        weights = np.exp(weights / options.temperature)
        return weights / weights.sum(axis=1, keepdims=True)
    return np.maximum(weights, 0)


def covered_by(weights: np.ndarray, chosen: list[int]) -> float:
    return float(weights[:, chosen].max(axis=1).sum()) if chosen else 0.0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    patches=st.integers(1, 12),
    alpha=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    weights=st.sampled_from(["shares", "cosine"]),
    temperature=st.sampled_from([0.05, 0.2, 1.0]),
)
def test_each_step_is_the_best_and_its_gain_is_told(seed, patches, alpha, weights, temperature):
    features = without_padding(random_features(2, patches, 6, seed))
    options = CoverageOptions(alpha=alpha, weights=weights, temperature=temperature)
    order, gains = selection_order(features, patches, options)
    for tile in range(2):
        plain, saliency = plain_weights(features, tile, options), features.saliency[tile].double().numpy()
        total, chosen = covered_by(plain, list(range(patches))), []
        for step, pick in enumerate(order[tile].tolist()):
            left = [patch for patch in range(patches) if patch not in chosen]
            gain = {patch: covered_by(plain, [*chosen, patch]) - covered_by(plain, chosen) for patch in left}
            score = {patch: gain[patch] * saliency[patch] ** alpha for patch in left}
            assert pick in left and score[pick] >= max(score.values()) - 1e-5 * total
            assert gains[tile, step].item() == pytest.approx(gain[pick] / total, abs=1e-5)
            chosen.append(pick)
    torch.testing.assert_close(gains.sum(dim=1), torch.ones(2))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), kept=st.integers(1, 4), weights=st.sampled_from(["shares", "cosine"]))
def test_without_saliency_it_covers_at_least_1_minus_1_over_e_of_the_best(seed, kept, weights):
    patches = 8
    features, options = without_padding(random_features(1, patches, 3, seed)), CoverageOptions(alpha=0, weights=weights)
    plain = plain_weights(features, 0, options)
    best = max(covered_by(plain, list(chosen)) for chosen in combinations(range(patches), kept))
    order, gains = selection_order(features, kept, options)
    found = covered_by(plain, order[0].tolist())
    assert (1 - 1 / math.e) * best <= found <= best + 1e-9
    assert gains.sum().item() == pytest.approx(found / covered_by(plain, list(range(patches))), abs=1e-5)
    assert bool((gains.diff(dim=1) <= 1e-6).all())  # without saliency each step gains less


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    patches=st.integers(1, 14),
    values=st.integers(0, 3),
    alpha=st.sampled_from([0.0, 0.7, 1.0]),
    weights=st.sampled_from(["shares", "cosine"]),
    skip_padding=st.booleans(),
)
def test_choices_are_nested_distinct_and_the_same_in_any_batch(seed, patches, values, alpha, weights, skip_padding):
    """Also of blank pictures, equal rows and borders of any shape."""
    features = random_features(3, patches, 4, seed, values=values)
    options = CoverageOptions(alpha=alpha, weights=weights, skip_padding=skip_padding)
    whole = selection_order(features, patches, options)
    assert bool((whole.order.sort(dim=1).values == torch.arange(patches)).all())
    assert bool((whole.gains >= 0).all()) and bool(whole.gains.isfinite().all())
    for kept in range(1, patches):
        order, gains = selection_order(features, kept, options)
        assert torch.equal(order, whole.order[:, :kept])
        torch.testing.assert_close(gains, whole.gains[:, :kept])
    for tile in range(3):
        assert torch.equal(selection_order(tiles_of(features, [tile]), patches, options).order[0], whole.order[tile])


# ----- What is left, by loops --------------------------------------------------------


def plain_tokens(
    features: VisionFeatures, tile: int, kept: list[int], options: CoverageOptions
) -> tuple[np.ndarray, list[int]]:
    """The merged tokens (K, C), and for each patch its row or -1."""
    source, content = features.source[tile].double().numpy(), features.patches[tile].double().numpy()
    unit = source / np.maximum(np.linalg.norm(source, axis=1, keepdims=True), 1e-12)
    group = []
    for patch in range(len(source)):
        cosines = [float(unit[patch] @ unit[other]) for other in kept]
        is_padding = options.skip_padding and features.padding is not None and bool(features.padding[tile, patch])
        joins = max(cosines) >= options.least and not is_padding
        group.append(kept.index(patch) if patch in kept else int(np.argmax(cosines)) if joins else -1)
    tokens = []
    for row, patch in enumerate(kept):
        members = [other for other in range(len(source)) if group[other] == row]
        cosines = [1.0 if other == patch else max(float(unit[other] @ unit[patch]), 0.0) for other in members]
        weights = cosines if options.mean == "similarity" else [1.0] * len(members)
        mean = sum(weight * content[other] for weight, other in zip(weights, members, strict=True)) / sum(weights)
        tokens.append((1 - options.strength) * content[patch] + options.strength * mean)
    return np.stack(tokens), group


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kept=st.integers(1, 12),
    strength=st.sampled_from([0.25, 1.0]),
    mean=st.sampled_from(["sizes", "similarity"]),
    least=st.sampled_from([-1.0, 0.3, 1.0]),
    skip_padding=st.booleans(),
)
def test_what_is_left_joins_the_nearest_kept_patch(seed, kept, **settings_):
    features, options = random_features(2, 12, 5, seed), CoverageOptions(**settings_)
    found = compress(features, kept, **settings_)
    assert (found.num_dominant, found.num_contextual) == (kept, 0)
    for tile in range(2):
        places = found.positions[tile].tolist()
        assert places == sorted(selection_order(features, kept, options).order[tile].tolist())
        tokens, group = plain_tokens(features, tile, places, options)
        np.testing.assert_allclose(found.tokens[tile], tokens, atol=1e-5)
        assert found.assignment[tile].tolist() == group
        assert found.sizes[tile].tolist() == [group.count(row) for row in range(kept)]


@pytest.mark.parametrize("mean", ["sizes", "similarity"])
def test_equal_and_blank_patches_merge_into_what_they_are(mean):
    for values in (1, 2):  # with 1 all rows are zero
        features = without_padding(random_features(2, 30, 2, seed=values, values=values))
        found = compress(features, 12, mean=mean)
        assert bool(found.tokens.isfinite().all()) and bool((found.sizes.sum(dim=1) == 30).all())
        places = torch.arange(12).expand(2, -1)
        assert torch.equal(found.assignment.gather(1, found.positions), places)  # each kept one holds itself


def test_nothing_is_lost_without_padding_and_without_a_least():
    found = compress(some_features(), 16)
    assert found.sizes.sum(dim=1).tolist() == [60, 60] and int(found.assignment.min()) == 0
    alone = compress(some_features(), 60)
    assert torch.equal(alone.tokens, some_features().patches) and bool((alone.sizes == 1).all())


def test_without_strength_patches_are_kept_as_they_are():
    features = some_features()
    positions = keep(features, "coverage", 16, strength=0.0)
    assert torch.equal(compress(features, 16).positions, positions)
    assert torch.equal(compress(features, 16, least=1.0).tokens, compress(features, 16, strength=0.0).tokens)


def test_values_of_a_budget_are_of_that_budget():
    """The choice is nested; what joins whom is not, so that a shorter budget is no part of a longer one."""
    features = some_features()
    order = selection_order(features, 16).order
    for kept in (4, 16):
        merged = merge_left(features, order[:, :kept].sort(dim=1).values)
        found = compress(features, kept)
        assert torch.equal(merged.tokens, found.tokens) and torch.equal(merged.positions, found.positions)
        assert merged.sizes.sum(dim=1).tolist() == [60, 60]


# ----- Where it stands ------------------------------------------------------------


def test_it_chooses_alike_before_and_behind_the_projector_and_merges_what_is_there():
    behind = some_features()
    before = replace(behind, content=behind.source * 3)
    found, there = compress(behind, 16), compress(before, 16)
    assert torch.equal(found.positions, there.positions) and torch.equal(found.assignment, there.assignment)
    for features, tokens in ((behind, found.tokens), (before, there.tokens)):
        wanted, _ = plain_tokens(features, 1, found.positions[1].tolist(), CoverageOptions())
        np.testing.assert_allclose(tokens[1], wanted, atol=1e-5)


def test_a_border_changes_nothing_of_what_is_beside_it():
    features = random_features(1, 40, 8, seed=2)
    inside = (~features.padding[0]).nonzero().flatten()
    names = ("content", "source", "saliency")
    cut = {name: getattr(features, name)[:, inside] for name in names}
    alone = replace(features, grid=(1, len(inside)), padding=None, **cut)
    for options in ({}, {"weights": "cosine"}, {"mean": "sizes", "alpha": 0.0}):
        found, wanted = compress(features, 9, **options), compress(alone, 9, **options)
        assert torch.equal(found.positions, inside[wanted.positions])
        torch.testing.assert_close(found.tokens, wanted.tokens)
        assert torch.equal(found.assignment[:, inside], wanted.assignment)
        assert bool((found.assignment[features.padding] == -1).all())
    open_border = compress(features, 9, skip_padding=False)
    assert torch.equal(open_border.tokens, compress(without_padding(features), 9).tokens)


def test_a_border_is_kept_only_where_nothing_else_is_left():
    features = some_features()
    padding = torch.zeros(2, 60, dtype=torch.bool)
    padding[:, 20:] = True
    padded = replace(features, padding=padding)
    for kept in (20, 23):
        found = compress(padded, kept)
        assert bool((found.positions == torch.arange(kept)).all()) and bool((found.sizes == 1).all())
    blank = compress(replace(features, padding=torch.ones_like(padding)), 3)
    assert bool((blank.positions == torch.arange(3)).all()) and bool(blank.tokens.isfinite().all())
    alike = replace(padded, source=torch.zeros_like(features.source), padding=~padding)  # a second patch gains nothing
    assert bool((compress(alike, 40).positions == torch.arange(20, 60)).all())
    gains = selection_order(replace(features, padding=torch.ones_like(padding)), 3).gains
    assert bool((gains == 0).all())


def test_gradients_reach_what_is_merged_and_not_the_choice():
    features = without_padding(random_features(2, 12, 6, seed=5))
    given_ = {name: getattr(features, name).clone().requires_grad_() for name in ("content", "source", "saliency")}
    found = compress(replace(features, **given_), 4, mean="sizes", strength=0.5)
    found.tokens.sum().backward()
    assert given_["source"].grad is None and given_["saliency"].grad is None
    for tile in range(2):
        for patch, row in enumerate(found.assignment[tile].tolist()):
            own = 0.5 * (patch in found.positions[tile].tolist())
            wanted = own + 0.5 / found.sizes[tile, row].item()
            torch.testing.assert_close(given_["content"].grad[tile, patch], torch.full((6,), wanted))


def test_rows_in_half_precision_are_computed_in_full():
    half = random_features(2, 40, 24, seed=4)
    half = replace(half, **{name: getattr(half, name).bfloat16() for name in ("content", "source")})
    whole = replace(half, content=half.content.float(), source=half.source.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = compress(half, 12)
    wanted = compress(whole, 12)
    assert got.tokens.dtype is torch.bfloat16 and torch.equal(got.positions, wanted.positions)
    assert torch.equal(got.assignment, wanted.assignment) and torch.equal(got.tokens, wanted.tokens.bfloat16())


def test_it_reads_a_tower_without_cls_and_leaves_features_as_they_are():
    features = some_features()
    before = [tensor.clone() for tensor in (features.content, features.source, features.saliency)]
    bare = compress(replace(features, saliency_has_cls=False), 16)
    assert torch.equal(bare.tokens, compress(features, 16).tokens)
    for tensor, old in zip((features.content, features.source, features.saliency), before, strict=True):
        assert torch.equal(tensor, old)


# ----- Options --------------------------------------------------------------------


def test_needs_follow_from_the_options():
    def needs(**options: object) -> frozenset[str]:
        return get_compressor("coverage").bind(CompressionConfig("coverage", 8, options=options)).needs

    assert needs() == {"saliency", "padding"} and needs(alpha=0.0) == {"padding"}
    assert needs(alpha=0, skip_padding=False) == frozenset()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("alpha", -1.0, r"alpha must be in 0\.\.10, got -1.0"),
        ("weights", "distance", "weights='distance' must be one of shares, cosine"),
        ("temperature", 0.0, r"temperature must be in 0.001\.\.100, got 0.0"),
        ("strength", 1.5, r"strength must be in 0\.\.1, got 1.5"),
        ("mean", "median", "mean='median' must be one of sizes, similarity"),
        ("least", -2, r"least must be in -1\.\.1, got -2"),
        ("skip_padding", 1, "skip_padding=1 must be true or false"),
        ("rule", "distinct", "coverage has no option rule; it has"),
    ],
)
def test_options_out_of_range_are_refused(option, value, said):
    with pytest.raises(ValueError, match=said):
        get_compressor("coverage").options_of(CompressionConfig("coverage", 8, options={option: value}))


def test_the_merging_of_visionzip_is_refused():
    tile = TileShape((6, 10), saliency_has_cls=True, keep_cls=True)
    get_compressor("coverage").check(CompressionConfig.parse("coverage:8"), tile)
    with pytest.raises(ValueError, match=r"coverage:8,merge=mean: coverage merges by strength=0\.\.1 and mean="):
        get_compressor("coverage").check(CompressionConfig.parse("coverage:8,merge=mean"), tile)
