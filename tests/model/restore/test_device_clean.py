"""RESTORE makes every tensor on the device of what it is given, and waits for none."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import COMPRESSORS, TileShape, get_compressor
from llava.model.restore import PlacedRows, PlacedTokens
from llava.model.restore.reading import read_restored, read_restored_answer
from tests.model.meta_clean import MetaClean
from tests.model.methods.test_device_clean import GRID, KEPT, WIDTH, make_features
from tests.model.tiny import TEXT

CHOOSE = [each.name for each in COMPRESSORS if each.can_restore(each.options() if each.options else None)]
LENGTH, ROWS, TOKENS = 30, 24, 8


def bound_of(method: str):
    compressor = get_compressor(method)
    place = next(place for place in compressor.places if place in ("tower", "projected"))
    rule = ",rule=distinct" if method == "vispruner" else ""  # the other cannot have half of these
    budget = CompressionConfig.parse(f"{method}:{KEPT}{rule},positions=restore")
    return place, compressor.bind(budget, TileShape(GRID, True, place == "tower", places=(place,)))


def test_those_that_choose_are_these():
    assert {"divprune", "holov", "vispruner", "scope", "fastervlm", "mmtok", "cdpruner", "random", "uniform"} <= set(
        CHOOSE
    )
    assert not {"visionzip", "tome", "pool", "prumerge", "prumerge_plus", "downsample"} & set(CHOOSE)


@pytest.mark.parametrize("method", CHOOSE)
def test_merging(method):
    place, bound = bound_of(method)
    features = make_features(place, "meta")
    with MetaClean():
        kept = bound(features)
    assert kept.tokens.shape == (3, KEPT, WIDTH)
    assert {each.device.type for each in (kept.tokens, kept.positions, kept.sizes, kept.assignment)} == {"meta"}


@pytest.mark.parametrize("method", CHOOSE)
def test_merging_is_one_graph_and_holds_all_patches(method):
    torch._dynamo.reset()
    place, bound = bound_of(method)
    features = make_features(place, "cpu")
    wanted = bound(features)
    assert wanted.sizes.sum(dim=1).tolist() == [GRID[0] * GRID[1]] * 3 and (wanted.sizes > 0).all()
    got = torch.compile(bound, backend="eager", fullgraph=True, dynamic=False)(features)
    assert torch.equal(got.positions, wanted.positions)
    torch.testing.assert_close(got.tokens, wanted.tokens)


@pytest.mark.parametrize("padded", [False, True])
def test_prompts_and_answers(padded):
    with torch.device("meta"):
        decoder = LlamaForCausalLM(LlamaConfig(**TEXT, attn_implementation="eager")).model
        places = torch.empty(TOKENS, dtype=torch.int64)
        images = [PlacedTokens.of(torch.empty(TOKENS, TEXT["hidden_size"]), places, places, ROWS) for _ in range(2)]
        image_rows = torch.empty(2, LENGTH, dtype=torch.int64)
        mask = torch.empty(2, LENGTH, dtype=torch.int64) if padded else None
        embeds, token = (torch.empty(2, count, TEXT["hidden_size"]) for count in (LENGTH, 1))
    with torch.inference_mode(), MetaClean():
        rows = PlacedRows.locate(image_rows, mask, images)
        output = read_restored(decoder, embeds, rows)
        after = read_restored_answer(decoder, token, output.past_key_values)
        after = read_restored_answer(decoder, token, after.past_key_values)
    assert after.last_hidden_state.device.type == "meta" and after.last_hidden_state.shape == token.shape
    assert after.past_key_values.get_seq_length() == LENGTH + 2
