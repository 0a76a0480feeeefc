"""HoloV against recorded outputs of its public code; a plain restatement of its scores; budgets that are not lost."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from llava.model.multimodal_compressor.holov import HoloVOptions, select
from tests.model.methods.chosen_cases import (
    NEAR_TIE,
    at_projector,
    compress,
    is_refused,
    parse,
    random_features,
    recorded_features,
)
from tests.model.methods.recorded import Recording


def test_every_recorded_case():
    recorded = Recording("holov")
    for group in recorded.groups("indices"):
        case, crops = parse(group), int(re.search(r"crops(\d+)$", group)[1])
        features = at_projector(recorded_features(case.inputs))
        assert not is_refused(features, "holov", case.kept, crops=crops)
        found = compress(features, "holov", case.kept, crops=crops)
        index = found.positions[case.image]
        same = np.array_equal(index, recorded[f"{group}/indices"])
        same &= int((found.sizes[case.image] == 0).sum()) == recorded[f"{group}/zero_tokens"]
        rows = features.patches[case.image][index.clamp(min=0)] * (index >= 0).unsqueeze(1)
        assert torch.equal(found.tokens[case.image], rows)
        margin = min(float(recorded[f"{group}/margin_{name}"]) for name in ("floor", "rest", "attention"))
        recorded.compare(group, same, near_tie=margin < NEAR_TIE)
    recorded.finish()


def test_variances_cancel_in_the_score_of_a_run():
    """The score of the paper's code, in float64: only the mean attention of a run is left of it."""
    rows, attention = torch.randn(2, 36, 48, dtype=torch.float64).unbind(), torch.rand(2, 36, dtype=torch.float64)
    for unit, seen in zip((normalize(part, dim=1) for part in rows), 1000 * attention, strict=True):
        similarity = (unit @ unit.T).fill_diagonal_(0)
        mean = similarity.sum(dim=1, keepdim=True) / 35
        variance = (similarity - mean).square().sum(dim=1) / 35
        score = (seen + 0.09 * variance * seen.mean() / variance.mean()).mean()
        torch.testing.assert_close(score, 1.09 * seen.mean())


def test_what_a_run_cannot_use_goes_to_the_others():
    saliency = torch.full((1, 64), 1e-3)
    saliency[0, 20:24] = torch.tensor([4.0, 7.0, 5.0, 6.0])  # one run of four has nearly all attention
    saliency[0, 40:44] = torch.tensor([0.4, 0.1, 0.3, 0.2])
    lost = select(saliency, 12, HoloVOptions())
    assert lost[0, :4].tolist() == [20, 21, 22, 23] and int((lost == -1).sum()) > 0
    kept = select(saliency, 12, HoloVOptions(rule="distinct"))[0].tolist()
    assert len(set(kept)) == 12 and min(kept) >= 0 and {20, 21, 22, 23, 40, 42} <= set(kept)


def test_runs_must_have_two_patches_or_one():
    features = at_projector(random_features(1, (4, 6)))
    assert "use crops=12 or less, or rule=distinct" in is_refused(features, "holov", 4)
    assert not is_refused(features, "holov", 4, rule="distinct")
    assert "use crops=24 or less" in is_refused(features, "holov", 4, crops=25, rule="distinct")
    assert "crops must be at least 1" in is_refused(features, "holov", 4, crops=0)


@pytest.mark.parametrize("rule", ["reference", "distinct"])
def test_attention_of_none_is_an_even_budget(rule):
    features = at_projector(random_features(1, (4, 8), values=1))
    assert bool((features.saliency == 0).all())
    found = compress(replace(features), "holov", 16, rule=rule)
    assert found.positions[0].tolist() == list(range(0, 32, 2))
