"""PruMerge and PruMerge+ against recorded outputs of their public code, at given ratios and adaptive."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.prumerge import (
    adaptive,
    by_attention,
    class_attention,
    merge,
    outlier_share,
    plus,
    plus_budgets,
)
from tests.model.methods.chosen_cases import NEAR_TIE, compress, is_refused, random_features, recorded_features
from tests.model.methods.recorded import Recording

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def seen(case, images):
    """Patches, the last layer's keys, and the single-head attention of some images."""
    features = recorded_features(case)
    queries, keys = features.last_layer_qk
    return (
        features.patches[images],
        keys[images, 1:],
        class_attention(queries[images], keys[images]),
    )


def test_every_recorded_case():
    recorded = Recording("prumerge")
    for image in recorded.groups("cls_attention"):
        case, _, number = image.rpartition("/b")
        patches, keys, attention = seen(case, slice(int(number), int(number) + 1))
        close = np.allclose(attention, recorded[f"{image}/cls_attention"], atol=1e-6)
        recorded.compare(f"{image}/outliers", close and outlier_share(attention) == recorded[f"{image}/outlier_ratio"])
        forms = {key.split("/")[-2] for key in recorded if key.startswith((f"{image}/base_", f"{image}/plus_"))}
        for form in sorted(forms):
            kind, _, ratio = form.partition("_")
            found = keep(patches, keys, attention, kind, ratio)
            compare_form(recorded, f"{image}/{form}", found, case, ratio)
    for group in recorded.groups("batch2/base_adaptive/indices"):
        form = f"{group}/batch2/base_adaptive"
        found = adaptive(*seen(group, slice(0, 2)))
        same = np.array_equal(found.kept, recorded[f"{form}/indices"])
        same &= np.allclose(found.tokens, recorded[f"{form}/tokens"], **TOLERANCE)
        recorded.compare(form, same)
    recorded.finish()


def keep(patches, keys, attention, kind, ratio):
    """What a form merges; None if it cannot."""
    try:
        if ratio == "adaptive":
            return adaptive(patches, keys, attention, kind == "plus")
        share = float(ratio.removeprefix("ratio"))
        count = int(attention.shape[1] * share)
        kept = plus(attention, count, int(1 / share)) if kind == "plus" else by_attention(attention, count)
    except ValueError:
        return None
    return merge(patches, keys, attention, kept)


def compare_form(recorded, form, found, case, ratio):
    if f"{form}/error" in recorded:
        assert recorded[f"{form}/error"]
        recorded.compare(form, found is None)
        return
    kept, tokens = recorded[f"{form}/indices"], recorded[f"{form}/tokens"]
    same = found is not None and np.array_equal(found.kept[0], kept)
    same = same and np.allclose(found.tokens[0], tokens, **TOLERANCE)
    # A patch that is kept twice is as near to its neighbours as its twin, and both weigh the same.
    margins = [recorded[f"{form}/margin_order"], recorded[f"{form}/margin_neighbours"] or 1.0]
    recorded.compare(form, same, near_tie=min(margins) < NEAR_TIE)
    if same and ratio != "adaptive":
        at_the_seam(case, form, float(ratio.removeprefix("ratio")), kept, tokens)


def at_the_seam(case, form, ratio, kept, tokens):
    """The budget that counts the extra token gives the same, unless another ratio gives as many."""
    features, image = recorded_features(case), int(re.search(r"/b(\d+)/", form)[1])
    method = "prumerge_plus" if "/plus_" in form else "prumerge"
    assert not is_refused(features, method, len(tokens))
    count = int(features.patches.shape[1] * ratio)
    if method == "prumerge" or plus_budgets()[len(tokens)] == (count, int(1 / ratio)):
        found = compress(features, method, len(tokens))
        assert np.array_equal(found.positions[image, :-1], kept)
        torch.testing.assert_close(found.tokens[image], torch.from_numpy(tokens), **TOLERANCE)


def test_every_ratio_gives_a_budget():
    for thousandth in range(2, 501):
        ratio = thousandth / 1000
        count, step = int(576 * ratio), int(1 / ratio)
        tokens = count + len(range(step // 2, 575, step)) + 1
        assert tokens > 576 or plus_budgets()[tokens]
        if thousandth in (125, 250, 500):
            assert plus_budgets()[tokens] == (count, step)


def test_what_the_public_plus_cannot_have_is_refused():
    tile = random_features(1, (24, 24), channels=2)
    assert "nearest that one gives are 145; use rule=distinct" in is_refused(tile, "prumerge_plus", 146)
    assert not is_refused(tile, "prumerge_plus", 146, rule="distinct")
    other = random_features(1, (4, 6))
    assert "works for 576 patches only, not for 24; use rule=distinct" in is_refused(other, "prumerge_plus", 9)
    assert not is_refused(other, "prumerge_plus", 9, rule="distinct")
    for method in ("prumerge", "prumerge_plus"):
        with pytest.raises(ValueError, match="adaptive must be one of gain, cover, attention, rank, got True"):
            CompressionConfig.parse(f"{method}:145,adaptive=true")
    assert "this tower has none" in is_refused(random_features(1, (4, 4), has_cls=False), "prumerge", 4)


def test_the_extra_token_is_the_weighted_sum_of_all_that_is_not_kept():
    features = random_features(2, (4, 6), seed=1)
    queries, keys = features.last_layer_qk
    attention = class_attention(queries, keys)
    found = compress(features, "prumerge", 5)
    for tile, (kept, sizes) in enumerate(zip(found.positions.tolist(), found.sizes.tolist(), strict=True)):
        left = [patch for patch in range(24) if patch not in kept[:4]]
        wanted = sum(attention[tile, patch] * features.patches[tile, patch] for patch in left)
        torch.testing.assert_close(found.tokens[tile, 4], wanted)
        assert kept[4] == max(left, key=lambda patch: float(attention[tile, patch]))
        assert sizes == [24, 24, 24, 24, 20]
    alone = compress(features, "prumerge", 1)
    torch.testing.assert_close(alone.tokens[:, 0], (attention.unsqueeze(2) * features.patches).sum(dim=1))


def test_adaptive_plus_takes_one_tile_of_the_public_grid():
    with pytest.raises(ValueError, match="works for 576 patches only"):
        adaptive(torch.randn(1, 24, 4), torch.randn(1, 24, 4), torch.rand(1, 24), is_plus=True)
    with pytest.raises(ValueError, match="no step for 1 tiles with 0 % outliers"):
        adaptive(torch.randn(1, 576, 4), torch.randn(1, 576, 4), torch.ones(1, 576), is_plus=True)
