"""`tiles=area`: tiles that show more of the picture get more of the same total."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava.inference import GenerationOptions, Inference, Question
from llava.model.anyres import TileLayout
from llava.model.configuration import CompressionConfig
from llava.model.image_rules import ImageRules
from llava.model.tile_shares import deal

BUDGET = "visionzip:54+10,tiles=area"


@settings(deadline=None)
@given(st.data())
def test_shares_add_up_and_follow_the_weights(data):
    weights = data.draw(st.lists(st.integers(0, 576), min_size=1, max_size=8))
    most = data.draw(st.integers(1, 40))
    total = data.draw(st.integers(len(weights), most * len(weights)))
    shares = deal(total, weights, most)
    assert sum(shares) == total and min(shares) >= 1 and max(shares) <= most
    pairs = [(a, b) for a in range(len(weights)) for b in range(len(weights)) if weights[a] > weights[b]]
    assert all(shares[a] >= shares[b] for a, b in pairs)


def test_every_small_case():
    for weights in itertools.product(range(4), repeat=3):
        for most in range(1, 6):
            for total in range(3, 3 * most + 1):
                shares = deal(total, weights, most)
                assert sum(shares) == total and min(shares) >= 1 and max(shares) <= most
                ranked = sorted(zip(weights, shares, strict=True))
                assert all(a[0] == b[0] or a[1] <= b[1] for a, b in itertools.pairwise(ranked))
                equal = [b[1] - a[1] for a, b in itertools.combinations(ranked, 2) if a[0] == b[0]]
                assert all(difference <= 1 for difference in equal)


def test_shares_by_hand():
    assert deal(20, [10, 10, 5, 0], 20) == [8, 7, 4, 1]  # 7.6, 7.6, 3.8 and at least 1: 19 are dealt by 10 : 10 : 5
    assert deal(12, [1, 0, 0, 0], 6) == [6, 2, 2, 2]


def test_patches_that_show_the_picture():
    layout = TileLayout("spatial_unpad", "llava", ((56, 56),), 28, 2)  # tiles of 2 x 2 patches, a grid of 2 x 2 tiles
    assert layout.shown_patches(5, (40, 40)) == [4, 4, 4, 4, 4]
    assert layout.shown_patches(5, (40, 20)) == [4, 2, 2, 2, 2]  # the outer rows are padding
    assert layout.shown_patches(1, (40, 20)) == [4]


@pytest.fixture(scope="module")
def inference(oracle_dir):
    return Inference.load(oracle_dir / "tiny-llava-v1.6-next", device="cpu", compression=BUDGET)


@pytest.fixture(scope="module")
def pictures(inference, oracle_dir):
    return inference.open([oracle_dir / "images" / f"{name}.png" for name in ("landscape", "wide", "square")])


def restated(model, pixels, size):
    """The sequence of one image, tile by tile: each compressed by itself with its share, then put in order."""
    layout, rules = TileLayout.from_config(model.config), ImageRules.from_config(model.config)
    total, most = 64 * len(pixels), rules.num_patches + 1
    shares = deal(total, layout.shown_patches(len(pixels), size), most)
    parts = []
    for tile, share in zip(pixels, shares, strict=True):
        contextual = min(round(share * 10 / 64), share - 1)
        model.set_compression(CompressionConfig("visionzip", share - contextual, contextual))
        kept = model.compress_images(tile[None])
        parts.append((model.model.multi_modal_projector(kept.tokens)[0], kept.positions[0], kept.num_dominant))
    model.set_compression(BUDGET)
    rows, side = [parts[0][0]], layout.patches_per_side
    columns = layout.grid_shape(size)[1] * side
    dominant, contextual = [], []
    for number, (tokens, positions, count) in enumerate(parts[1:]):
        top, left = number // (columns // side) * side, number % (columns // side) * side
        for token, place in zip(tokens[:count], positions[:count].tolist(), strict=True):
            on_canvas = (top + place // side) * columns + left + place % side if place >= 0 else 10**6 + number
            dominant.append((on_canvas, token))
        contextual += list(tokens[count:])
    dominant.sort(key=lambda pair: pair[0])
    return torch.cat([rows[0], torch.stack([token for _, token in dominant] + contextual)]), shares


@torch.no_grad()
def test_an_image_is_its_tiles_each_with_its_share(inference, pictures):
    model = inference.model
    pixels, sizes = inference.preprocess(pictures), [picture.size for picture in pictures]
    together = model.encode_each(pixels, sizes)
    uneven = []
    for tiles, size, whole in zip(pixels, sizes, together, strict=True):
        expected, shares = restated(model, tiles, size)
        torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-4)
        assert [len(whole)] == model.num_visual_tokens([size])
        uneven.append(len(set(shares)) > 1)
    assert any(uneven)


def test_answers_in_a_batch_are_those_alone(inference, pictures):
    options = GenerationOptions(max_new_tokens=6)
    questions = [Question("What is this?", (picture,)) for picture in pictures]
    together = {answer.index: answer.token_ids for answer in inference.ask(questions, options=options)}
    for index, question in enumerate(questions):
        assert together[index] == inference.ask_one(question.text, *question.images, options=options).token_ids


def test_what_cannot_be_is_refused(inference, pictures):
    with pytest.raises(ValueError, match=r"compression\.tiles must be one of equal, area, gain, got 'most'"):
        CompressionConfig.parse("visionzip:54+10,tiles=most")
    with pytest.raises(ValueError, match="tiles=area needs image_sizes"):
        inference.model.encode_each(inference.preprocess(pictures[:1]))
    assert CompressionConfig.from_dict(CompressionConfig.parse(BUDGET).to_dict()) == CompressionConfig.parse(BUDGET)
    assert "tiles" not in CompressionConfig.parse("visionzip:54+10").to_dict()
    assert str(CompressionConfig.parse(BUDGET)) == BUDGET
