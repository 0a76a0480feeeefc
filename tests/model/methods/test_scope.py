"""SCOPE against recorded outputs of its public code."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import get_compressor
from llava.model.multimodal_compressor.greedy import cosine
from llava.model.multimodal_compressor.scope import cover_salient
from tests.model.methods.greedy_cases import NEAR_TIE, keep, parse, some_features
from tests.model.methods.recorded import Recording, make_features


def choose(case: str, kept: int, alpha: float = 1.0) -> torch.Tensor:
    features = make_features(case)
    return cover_salient(cosine(features.source), features.saliency, kept, alpha)


def test_every_recorded_case():
    recorded = Recording("scope")
    for group in recorded.groups("selected"):
        variant = re.fullmatch(r"(.+)/alpha([\d.]+)/K(\d+)", group)
        if variant is not None:
            case, alpha, kept = variant[1], float(variant[2]), int(variant[3])
            wanted = recorded[f"{group}/selected"]
            order = choose(case, kept, alpha)
            positions = keep(make_features(case), "scope", kept, alpha=alpha)
            same = np.array_equal(order, wanted) and np.array_equal(positions, np.sort(wanted))
            recorded.compare(group, same)
            continue
        case, image, kept = parse(group)
        order, wanted = choose(case, kept)[image].numpy(), recorded[f"{group}/selected"]
        same = np.array_equal(order, wanted)
        same &= np.array_equal(keep(make_features(case), "scope", kept)[image], recorded[f"{group}/kept"])
        is_tie = recorded[f"{group}/margin_rel"] < NEAR_TIE
        is_tie |= recorded[f"{group}/agrees_with_float64_for"] < kept  # rounding decided in the public code
        recorded.compare(group, same, near_tie=bool(is_tie))
    recorded.finish()


def test_it_chooses_alike_before_and_behind_the_projector():
    features = some_features()
    in_front = replace(features, content=features.source)
    assert torch.equal(keep(features, "scope", 16), keep(in_front, "scope", 16))


def test_added_saliency_is_a_bonus():
    features = some_features()
    similarity, saliency = cosine(features.source), features.saliency
    first = cover_salient(similarity, saliency, 1, combine="add")[:, 0]
    assert torch.equal(first, (similarity.clamp(min=0).sum(dim=1) + saliency).argmax(dim=1))
    alone = keep(features, "scope", 9, combine="add", alpha=0.0)
    assert torch.equal(alone, keep(features, "scope", 9, alpha=0.0))


@pytest.mark.parametrize("options", [{"alpha": -1.0}, {"combine": "divide"}, {"rule": "paper"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        get_compressor("scope").options_of(CompressionConfig("scope", 8, options=options))
