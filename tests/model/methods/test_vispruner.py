"""VisPruner against recorded outputs of its public code, and what it refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from llava.model.multimodal_compressor.vispruner import rounds, select
from tests.model.methods.chosen_cases import compress, is_refused, random_features, recorded_features
from tests.model.methods.recorded import Recording


def test_every_recorded_case():
    recorded = Recording("vispruner")
    for case in recorded.groups("attention_order"):
        saliency = recorded_features(case).saliency
        order = saliency.argsort(dim=1, descending=True)
        gap = recorded[f"{case}/smallest_gap"].min()
        same = np.array_equal(order, recorded[f"{case}/attention_order"])
        recorded.compare(f"{case}/attention_order", same, near_tie=gap < 1e-8)
    for group in recorded.groups("important"):
        case, kept, ratio = re.fullmatch(r"(.+)/K(\d+)/ratio([\d.]+)", group).groups()
        kept, share = int(kept), float(ratio)
        features = recorded_features(case)
        same = int(recorded[f"{group}/important"]) == int(kept * share)
        refused = is_refused(features, "vispruner", kept, important=share)
        if f"{group}/error" in recorded:
            assert recorded[f"{group}/error"]
            same &= "use rule=distinct" in refused
        else:
            same &= not refused and bool((recorded[f"{group}/count"] == kept).all())
            mask = torch.zeros(len(features.content), features.patches.shape[1], dtype=torch.bool)
            mask.scatter_(1, compress(features, "vispruner", kept, important=share).positions, True)
            same &= np.array_equal(mask, recorded[f"{group}/kept_mask"])
        recorded.compare(group, same)
    recorded.finish()


@pytest.mark.parametrize("important", [0.0, 0.5])
def test_both_rules_agree_while_halves_are_equal(important):
    features = random_features(2, (8, 12), seed=3)
    for kept in (16, 40, 64, 96):
        found = [
            select(features.patches, features.saliency, kept, important, rule) for rule in ("reference", "distinct")
        ]
        assert torch.equal(*found)


@pytest.mark.parametrize(
    ("left", "kept", "survivors"),
    [
        (16, 8, [0]),  # all eight of A go
        (8, 3, [0, 1]),  # five of four are dropped: none of A is left, and all of B
        (5, 4, [2]),  # three in A, two in B
        (17, 8, [0]),  # nine in A: one more than there are row numbers is dropped
        (40, 40, []),
    ],
)
def test_small_rounds_of_the_public_code(left, kept, survivors):
    """Worked out by hand: the public code names survivors of A by R // 2 - dropped rows, and torch reads -1 as 1."""
    assert rounds(left, kept) == survivors


@pytest.mark.parametrize(
    ("left", "kept", "why"),
    [(8, 2, "would drop 6 of 4"), (31, 30, "31 patches cannot be halved"), (17, 9, "would leave 8 diverse patches")],
)
def test_what_the_public_code_fails_at_is_computed_under_distinct(left, kept, why):
    with pytest.raises(ValueError, match=why):
        rounds(left, kept)
    for survivors in rounds(left, kept, "distinct"):
        left = left // 2 + survivors
    assert left == kept


def test_important_is_a_share():
    assert "important must be in 0..1" in is_refused(random_features(1, (4, 4)), "vispruner", 4, important=1.5)
