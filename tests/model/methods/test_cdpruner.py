"""CDPruner against recorded outputs of its public code."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import ClipJoint, TileShape, get_compressor
from llava.model.multimodal_compressor.cdpruner import dpp_kernel, most_diverse, relevance
from tests.model.methods.greedy_cases import NEAR_TIE, keep, parse, recorded_features, some_features, tiles_of
from tests.model.methods.recorded import Recording

SOUND = 1e-4
"""At smaller pivots the public code divides rounding by the root of rounding."""


def test_every_recorded_case():
    recorded = Recording("cdpruner")
    for group in recorded.groups("kept"):
        alone = re.fullmatch(r"(.+)/alone(\d+)/K(\d+)", group)
        if alone is not None:
            case, image, kept = alone[1], int(alone[2]), int(alone[3])
            features = tiles_of(recorded_features(case), [image])
            recorded.compare(group, np.array_equal(keep(features, "cdpruner", kept)[0], recorded[f"{group}/kept"]))
            continue
        case, image, kept = parse(group)
        got, wanted = keep(recorded_features(case), "cdpruner", kept)[image].numpy(), recorded[f"{group}/kept"]
        is_sound = recorded[f"{group}/smallest_pivot"] > SOUND
        is_tie = recorded[f"{group}/margin_rel"] < NEAR_TIE
        recorded.compare(group, np.array_equal(got, wanted), near_tie=is_tie or not is_sound)
        assert len(set(got.tolist())) == kept
        assert len(set(wanted.tolist())) == recorded[f"{group}/unique"]
        if not is_sound and not is_tie:
            compare_up_to_the_break(recorded, case, image, got, wanted)
    recorded.finish()


def compare_up_to_the_break(recorded: Recording, case: str, image: int, got: np.ndarray, wanted: np.ndarray) -> None:
    """What the public code keeps at the largest budget that it can fill is kept at larger ones, by it and by us."""
    sound = [
        group
        for group in recorded.groups("smallest_pivot")
        if group.startswith(f"{case}/b{image}/") and recorded[f"{group}/smallest_pivot"] > SOUND
    ]
    most = max(sound, key=lambda group: parse(group).kept, default=None)
    kept = set() if most is None else set(recorded[f"{most}/kept"].tolist())
    assert kept <= set(got.tolist()) and kept <= set(wanted.tolist())


def test_tiles_of_another_image_change_nothing():
    features = some_features()
    apart = replace(features, image_index=torch.tensor([0, 1]))
    alone = tiles_of(features, [0])
    assert torch.equal(keep(apart, "cdpruner", 32)[:1], keep(alone, "cdpruner", 32))
    joined, of_apart, of_alone = (relevance(given.clip_joint, given.image_index) for given in (features, apart, alone))
    assert torch.equal(of_apart[:1], of_alone) and not torch.equal(of_apart, joined)


def test_without_a_question_every_patch_is_as_relevant():
    features = replace(some_features(), clip_joint=None)
    joint = some_features().clip_joint
    silent = ClipJoint(joint.image, joint.text, torch.zeros_like(joint.mask))
    assert bool((relevance(silent, features.image_index) == 1).all())
    assert torch.equal(keep(features, "cdpruner", 32), keep(replace(features, clip_joint=silent), "cdpruner", 32))


def test_parts_that_are_not_there_have_no_say():
    features = some_features()
    joint = features.clip_joint
    text = torch.cat([joint.text, -3 * joint.text], dim=1)
    mask = torch.cat([joint.mask, torch.zeros_like(joint.mask)], dim=1)
    longer = ClipJoint(joint.image, text, mask)
    got, wanted = (relevance(one, features.image_index) for one in (longer, joint))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_the_set_has_the_largest_determinants():
    """Each step of the factorisation maximises the determinant, in float64 and from scratch."""
    kernel = dpp_kernel(some_features().patches)
    order, chosen = most_diverse(kernel, 6)[0].tolist(), []
    matrix = kernel[0].double()
    for pick in order:
        sets = {patch: [*chosen, patch] for patch in range(60) if patch not in chosen}
        tried = {patch: matrix[rows][:, rows].det() for patch, rows in sets.items()}
        assert tried[pick] >= max(tried.values()) - 1e-6
        chosen.append(pick)


def test_budgets_above_the_rank_are_refused_where_the_width_is_known():
    tile = TileShape((6, 10), True, True, projected_width=32)
    method = get_compressor("cdpruner")
    method.check(CompressionConfig("cdpruner", 32), tile)
    method.check(CompressionConfig("cdpruner", 33, options={"rule": "distinct"}), tile)
    method.check(CompressionConfig("cdpruner", 33), replace(tile, projected_width=None))
    with pytest.raises(ValueError, match=r"33 tokens .* 32 channels .* rule=distinct"):
        method.check(CompressionConfig("cdpruner", 33), tile)
