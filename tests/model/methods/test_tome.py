"""ToMe's matching against recorded outputs of its public code, once and until K tokens are left."""

from __future__ import annotations

import re

import numpy as np
import torch

from llava.model.multimodal_compressor.tome import Groups, group_means, match, match_down_to, schedule
from tests.model.methods.chosen_cases import NEAR_TIE, compress, random_features, recorded_features
from tests.model.methods.recorded import Recording


def test_every_recorded_case():
    recorded = Recording("tome")
    for group in recorded.groups("group"):
        case, kind, number = re.fullmatch(r"(.+)/(single_r|repeat_K)(\d+)", group).groups()
        features, margin = recorded_features(case), np.inf
        groups, number = Groups.single(features.keys), int(number)
        num_patches = features.patches.shape[1]
        if kind == "single_r":
            found = match(groups, min(number, num_patches // 2), is_protected=True)
            margin = min(recorded[f"{group}/margins/{name}"].min() for name in ("cut", "best"))
        else:
            found = match_down_to(groups, number + 1, is_protected=True)
            assert schedule(num_patches + 1, number + 1, 1) == recorded[f"{group}/r"].tolist()
            kept = compress(features, "tome", number)
            assert torch.equal(kept.assignment + 1, found.group[:, 1:])
        tokens, sizes = group_means(features.content, found.group, found.patch.shape[1])
        if kind == "repeat_K":
            torch.testing.assert_close(kept.tokens, tokens[:, 1:])
        same = np.array_equal(found.group, recorded[f"{group}/group"])
        same &= np.array_equal(sizes, recorded[f"{group}/sizes"])
        if f"{group}/tokens" in recorded:
            same &= np.allclose(tokens[:1], recorded[f"{group}/tokens"], atol=1e-5)
        recorded.compare(group, same, near_tie=margin < NEAR_TIE)
    recorded.finish()


def test_tokens_are_means_of_groups_that_share_all_patches():
    for has_cls in (True, False):
        features = random_features(2, (5, 7), has_cls=has_cls)
        for kept in (1, 2, 9, 17, 18, 34, 35):
            found = compress(features, "tome", kept)
            for tile in range(2):
                for row in range(kept):
                    members = found.assignment[tile] == row
                    assert int(members.sum()) == found.sizes[tile, row] > 0
                    assert members[found.positions[tile, row]]
                    torch.testing.assert_close(found.tokens[tile, row], features.patches[tile, members].mean(dim=0))
