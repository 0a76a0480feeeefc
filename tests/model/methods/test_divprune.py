"""DivPrune against recorded outputs of its public code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from llava.model.multimodal_compressor.divprune import distances, farthest
from tests.model.methods.greedy_cases import NEAR_TIE, keep, parse, recorded_features, some_features
from tests.model.methods.recorded import Recording


def test_every_recorded_case():
    recorded = Recording("divprune")
    for group in recorded.groups("kept"):
        case, image, kept = parse(group)
        features = recorded_features(case)
        order = farthest(distances(features.patches), kept)[image]
        same = np.array_equal(order, recorded[f"{group}/selected"])
        same &= np.array_equal(keep(features, "divprune", kept)[image], recorded[f"{group}/kept"])
        recorded.compare(group, same, near_tie=recorded[f"{group}/margin"] < NEAR_TIE)
    if "duplicates/projected" in recorded:
        rows = torch.from_numpy(recorded["duplicates/projected"])[None]
        wanted = recorded["duplicates/selected"]
        features = replace(some_features(), content=rows, source=rows, grid=(1, rows.shape[1]))
        got = keep(features, "divprune", rows.shape[1])[0]
        recorded.compare("duplicates", np.array_equal(got, np.sort(wanted)))
        assert len(set(wanted.tolist())) == len(got.unique()) < rows.shape[1]
        apart = keep(features, "divprune", rows.shape[1], rule="distinct")[0]
        assert torch.equal(apart, torch.arange(rows.shape[1]))
    recorded.finish()


def test_both_rules_agree_while_no_patch_is_chosen_again():
    distance = distances(some_features().patches)
    assert torch.equal(farthest(distance, 32), farthest(distance, 32, "distinct"))
