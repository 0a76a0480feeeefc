"""FasterVLM against recorded outputs of its public code."""

from __future__ import annotations

import numpy as np

from tests.model.methods.chosen_cases import NEAR_TIE, compress, is_refused, parse, recorded_features
from tests.model.methods.recorded import Recording


def test_every_recorded_case():
    recorded = Recording("fastervlm")
    for group in recorded.groups("kept"):
        case = parse(group)
        features = recorded_features(case.inputs)
        assert not is_refused(features, "fastervlm", case.kept)
        found = compress(features, "fastervlm", case.kept)
        same = np.array_equal(found.positions[case.image], recorded[f"{group}/kept"])
        recorded.compare(group, same, near_tie=recorded[f"{group}/margin"] < NEAR_TIE)
    recorded.finish()
