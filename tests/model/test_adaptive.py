"""Adaptive K: the rules, what is kept at the K that they give, and that the device is waited for once."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llava.inference import GenerationOptions, Inference, Question
from llava.inference.latency import compare_latency
from llava.model.adaptive_budget import AdaptiveK
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import TileShape, available_compressors, get_compressor
from llava.model.multimodal_compressor.adaptive import (
    compress_adaptively,
    count_kept,
    effective_rank,
    rank_tiles,
    share_total,
)
from llava.model.multimodal_compressor.feature_batches import pick_tiles
from llava.model.processing import LlavaNextProcessor, LlavaProcessor
from llava.serve.chat import Chat
from tests.model.meta_clean import MetaClean
from tests.model.methods.test_device_clean import GRID, make_features

NESTED = ("coverage:40", "scope:40", "mmtok:40,text=false", "fastervlm:40", "visionzip:32+8")
RULES = {"gain": 0.01, "cover": 0.5, "attention": 0.4, "rank": 1.5}
BUDGETS = [f"{method},adaptive={rule},threshold={value}" for method in NESTED for rule, value in RULES.items()]
OPTIONS = GenerationOptions(max_new_tokens=5)


def bound_and_features(text, device="cpu"):
    budget = CompressionConfig.parse(text)
    compressor = get_compressor(budget.method)
    place = compressor.places[0]
    tile = TileShape(GRID, True, place == "tower", places=(place,))
    compressor.check(budget, tile)
    return compressor.bind(budget, tile), replace(make_features(place, device, batch=6), image_index=None)


# ----- The rules ---------------------------------------------------------------


def plain_number(features, gains, rule, threshold, floor, most):
    """K of one tile, by the words of the rules."""
    if rule == "gain":  # the last token that covers more than the threshold
        number = max((place + 1 for place, gain in enumerate(gains) if gain > threshold), default=0)
    elif rule == "cover":
        number = next((k for k in range(most) if 1 - sum(gains[:k]) <= threshold), most)
    elif rule == "attention":
        attended = sorted(features["saliency"] / features["saliency"].sum(), reverse=True)
        number = next(k for k in range(len(attended) + 1) if sum(attended[k:]) <= threshold)
    else:
        singular = np.linalg.svd(features["source"], compute_uv=False)
        shares = singular / singular.sum()
        number = math.ceil(math.exp(-(shares * np.log(shares)).sum()) / threshold)
    return min(max(number, floor), most)


@pytest.mark.parametrize("text", BUDGETS)
def test_the_number_is_what_the_rule_says(text):
    bound, features = bound_and_features(f"{text},floor=3")
    adaptive = bound.budget.adaptive
    ranked = rank_tiles(bound, features, adaptive.rule, 40)
    _, gains = bound.compressor.nested.rank(features, 40, bound.options)
    for tile, number in enumerate(count_kept(ranked.levels, adaptive).tolist()):
        own = {name: getattr(features, name)[tile].double().numpy() for name in ("saliency", "source")}
        expected = plain_number(own, gains[tile].double().tolist(), adaptive.rule, adaptive.threshold, 3, 40)
        assert number == expected


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("method", NESTED)
def test_a_lower_threshold_never_keeps_fewer(method, rule):
    bound, features = bound_and_features(f"{method},adaptive={rule},threshold=0.5")
    levels = rank_tiles(bound, features, rule, 40).levels
    assert bool((levels.diff(dim=1) <= 0).all())
    steps = [0.0, *np.geomspace(1e-4, 0.99, 25).tolist()] if rule != "rank" else np.geomspace(0.1, 50, 25).tolist()
    numbers = torch.stack([count_kept(levels, AdaptiveK(rule, threshold)) for threshold in steps])
    assert bool((numbers.diff(dim=0) <= 0).all()) and int(numbers.min()) >= 1 and int(numbers.max()) <= 40
    assert numbers[0].sum() > numbers[-1].sum()


@pytest.mark.parametrize("rule", RULES)
def test_a_tile_with_nothing_to_cover_keeps_its_floor(rule):
    """A tile of padding, whose patches coverage passes over, and a tile without attention beside plain ones."""
    bound, features = bound_and_features(f"coverage:40,adaptive={rule},threshold=0.3,floor=3")
    padding = torch.zeros(features.source.shape[:2], dtype=torch.bool)
    padding[0] = True
    numbers = [sum(split) for split in compress_adaptively(bound, replace(features, padding=padding)).splits]
    assert numbers[0] == 3 if rule in ("gain", "cover") else numbers[0] > 3
    assert min(numbers[1:]) > 3 or rule == "gain"
    bound, features = bound_and_features(f"fastervlm:40,adaptive={rule},threshold=0.3,floor=3")
    features = replace(features, saliency=torch.zeros_like(features.saliency))
    numbers = {sum(split) for split in compress_adaptively(bound, features).splits}
    assert numbers == {3} or rule == "rank"


def test_effective_rank_of_what_is_known():
    """Of r orthogonal rows of one length it is r, of copies of a row 1, and scale changes nothing."""
    basis = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(0)))[0]
    rows = torch.stack([torch.cat([basis[:r], torch.zeros(30 - r, 40)]) for r in (1, 7, 30)])
    torch.testing.assert_close(effective_rank(1000 * rows), torch.tensor([1.0, 7.0, 30.0]), rtol=1e-5, atol=0)
    copies = basis[:1].expand(1, 60, 40)
    torch.testing.assert_close(effective_rank(copies), torch.ones(1), rtol=1e-4, atol=0)


# ----- What is kept ------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("method", NESTED)
def test_a_tile_keeps_what_the_method_keeps_at_its_number(method, rule):
    bound, features = bound_and_features(f"{method},adaptive={rule},threshold=0.5")
    middle = float(rank_tiles(bound, features, rule, 40).levels[:, 20].median())
    bound = replace(bound, budget=replace(bound.budget, adaptive=AdaptiveK(rule, middle)))
    uneven = compress_adaptively(bound, features)
    numbers = [sum(split) for split in uneven.splits]
    assert len(set(numbers)) > 1
    for tile, number in enumerate(numbers):
        budget = bound.budget.with_total(number)
        alone = bound.compressor.bind(budget, TileShape(GRID, True, bound.place != "projected", places=(bound.place,)))
        kept = alone(pick_tiles(features, torch.tensor([tile])))
        assert (kept.num_dominant, kept.num_contextual) == uneven.splits[tile]
        assert torch.equal(uneven.positions[tile, :number], kept.positions[0])
        assert torch.equal(uneven.sizes[tile, :number], kept.sizes[0])
        torch.testing.assert_close(uneven.tokens[tile, :number], kept.tokens[0], rtol=1e-5, atol=1e-6)


def test_empty_tokens_stand_behind_dominant_and_contextual_ones():
    bound, features = bound_and_features("visionzip:32+8,adaptive=attention,threshold=0.4")
    uneven = compress_adaptively(bound, features)
    even = uneven.as_even()
    assert even.num_dominant == max(d for d, _ in uneven.splits) and even.num_contextual == max(
        c for _, c in uneven.splits
    )
    for tile, (dominant, contextual) in enumerate(uneven.splits):
        kept = torch.cat([torch.arange(dominant), even.num_dominant + torch.arange(contextual)])
        assert torch.equal(even.tokens[tile, kept], uneven.tokens[tile, : dominant + contextual])
        empty = torch.ones(len(even.sizes[tile]), dtype=torch.bool)
        empty[kept] = False
        assert not even.sizes[tile, empty].any() and not even.tokens[tile, empty].any()
        assert bool((even.positions[tile, empty] == -1).all())


def test_shares_of_a_total_take_what_adds_most():
    levels = torch.tensor([[0.9, 0.5, 0.4, 0.3], [0.2, 0.1, 0.1, 0.1], [0.9, 0.8, 0.7, 0.6], [0.1, 0.0, 0.0, 0.0]])
    assert share_total(levels, [2, 2], 2).tolist() == [3, 1, 3, 1]
    assert share_total(levels[:1], [1], 3).tolist() == [3]
    drawn = torch.rand(7, 16, generator=torch.Generator().manual_seed(1)).cumsum(dim=1).flip(1)
    shares = share_total(drawn, [3, 4], 8)
    assert shares[:3].sum() == 24 and shares[3:].sum() == 32 and int(shares.min()) >= 1


# ----- The device --------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Counts what a GPU would be waited for: values that Python asks for, and shapes that follow from values."""

    ASK = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "item")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.partition("::")[2]
        is_copy = name == "_to_copy" and (kwargs or {}).get("device") is not None
        if name.startswith(self.ASK) or is_copy:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("text", [*BUDGETS, *(f"{method},tiles=gain" for method in NESTED)])
def test_the_device_is_waited_for_once(text, monkeypatch):
    """Everything before the numbers, and all behind them, runs on `meta`; the numbers are the one thing fetched."""
    bound, features = bound_and_features(text, "meta")
    fetched = []

    def fetch(numbers):
        fetched.append(tuple(numbers.shape))
        return [5, 9, 5, 12, 9, 40]

    monkeypatch.setattr(torch.Tensor, "tolist", fetch)
    with MetaClean(), Waits() as waits:
        kept = compress_adaptively(bound, features, [2, 4])
    assert fetched == [(6,)] and waits.found == []
    assert kept.tokens.device.type == kept.positions.device.type == "meta" and kept.tokens.shape[:2] == (6, 40)


def test_waits_are_seen():
    with Waits() as waits:
        bool(torch.ones(3).sum())
        torch.ones(3).nonzero()
    assert len(waits.found) == 2


# ----- In models ---------------------------------------------------------------


@pytest.fixture(scope="module", params=["tiny-llava-v1.5", "tiny-llava-v1.6-next"])
def inference(request, oracle_dir):
    return Inference.load(oracle_dir / request.param, device="cpu")


@pytest.fixture(scope="module")
def files(oracle_dir):
    return [oracle_dir / "images" / f"{name}.png" for name in ("landscape", "wide")]


IN_MODELS = ("coverage:60,adaptive=gain,threshold=0.003,floor=4", "visionzip:50+10,adaptive=attention,threshold=0.9")


@pytest.mark.parametrize("text", IN_MODELS)
def test_batches_are_their_images_one_by_one(inference, files, text):
    model = inference.model
    model.set_compression(text)
    opened = inference.open(files)
    pixels, sizes = inference.preprocess(opened), [picture.size for picture in opened]
    with torch.no_grad():
        together = model.encode_images(pixels, sizes)
        alone = [model.encode_images(pixels[i : i + 1], sizes[i : i + 1])[0] for i in range(len(files))]
    for one, other, most in zip(together, alone, model.num_visual_tokens(sizes), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
        assert len(one) <= most
    assert len({len(one) for one in together}) > 1
    questions = [Question("What is this?", (file,)) for file in files]
    questions += [Question("Which is larger?", tuple(files)), Question("Hello")]
    answers = {answer.index: answer for answer in inference.ask(questions, batch_size=4, options=OPTIONS)}
    exact = Inference(inference.tokenizer, model, inference.image_processor, exact=True)
    for answer in exact.ask(questions, options=OPTIONS):
        assert answers[answer.index] == answer
    lengths = [len(one) for one in together]
    assert [answers[i].visual_tokens for i in range(4)] == [*lengths, sum(lengths), 0]
    ids = inference.tokenize(inference.prompt(questions[0]))
    assert answers[0].prompt_tokens == len(ids) - 1 + lengths[0]


@pytest.mark.parametrize("text", IN_MODELS)
def test_an_image_is_what_its_number_gives_it(inference, files, text):
    """Tiles of an image keep different numbers; each is compressed by itself at its own."""
    model = inference.model
    model.set_compression(text)
    opened = inference.open(files[:1])
    pixels, sizes = inference.preprocess(opened), [picture.size for picture in opened]
    kept = model.compress_images(pixels, sizes)
    for tile, pixel in enumerate(pixels[0] if pixels[0].dim() == 4 else pixels):
        number = int((kept.sizes[tile] > 0).sum())
        model.set_compression(CompressionConfig.parse(text).with_total(number))
        alone = model.compress_images(pixel[None], sizes if isinstance(pixels, torch.Tensor) else None)
        own = kept.sizes[tile] > 0
        assert torch.equal(kept.positions[tile, own], alone.positions[0])
        torch.testing.assert_close(kept.tokens[tile, own], alone.tokens[0], atol=1e-5, rtol=1e-4)


def test_a_conversation_and_a_measurement_use_the_images_own_number(inference, files):
    inference.model.set_compression(IN_MODELS[0])
    chat = Chat(inference, [files[0]])
    first = chat.say("What is this?", options=OPTIONS)
    second = chat.say("And its colour?", options=OPTIONS)
    opened = inference.open(files[:1])
    number = len(inference.encode(opened)[0])
    other = Chat(inference, [files[0]])
    assert [other.say("What is this?", options=OPTIONS), other.say("And its colour?", options=OPTIONS)] == [
        first,
        second,
    ]
    question = Question("What is this?", (files[0],))
    cost = compare_latency(inference, question, [inference.model.compression], warmup=0, repeats=1)[0]
    assert cost.visual_tokens == number and cost.rows_read == number and cost.selector_ms > 0
    assert inference.ask_one(question.text, files[0], options=OPTIONS).visual_tokens == number


def test_transformers_own_convention_takes_counts_from_the_features(inference, files):
    model = inference.model
    model.set_compression(IN_MODELS[0])
    opened = inference.open(files[:1])
    features = model.encode_images(inference.preprocess(opened), [opened[0].size])
    wrong = torch.full((1, model.num_visual_tokens([opened[0].size])[0]), model.config.image_token_id)
    with pytest.raises(ValueError, match=r"as many as their pictures ask for under coverage:60") as refused:
        model.model._embed_expanded(wrong, features)
    assert "\n" not in str(refused.value)
    right = torch.full((1, len(features[0])), model.config.image_token_id)
    assert model.model._embed_expanded(right, features).shape[1] == len(features[0])


@pytest.mark.parametrize("text", ["coverage:49,tiles=gain", "visionzip:40+9,tiles=gain"])
def test_tiles_share_a_total_by_what_they_gain(inference, files, text):
    model = inference.model
    model.set_compression(text)
    opened = inference.open(files)
    pixels, sizes = inference.preprocess(opened), [picture.size for picture in opened]
    with torch.no_grad():
        together = model.encode_each(pixels, sizes)
        alone = [model.encode_each(pixels[i : i + 1], sizes[i : i + 1])[0] for i in range(len(files))]
    assert [len(one) for one in together] == model.num_visual_tokens(sizes)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    if isinstance(pixels, list):  # several tiles: some keep more than others
        model.set_compression(text.partition(",tiles")[0])
        equal = model.encode_each(pixels, sizes)
        assert any(
            one.shape == other.shape and not torch.equal(one, other) for one, other in zip(together, equal, strict=True)
        )


# ----- What cannot be ----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("coverage:9,adaptive=gain", "adaptive without threshold; write adaptive=gain,threshold=0.004"),
        ("coverage:9,threshold=0.1", "threshold without adaptive"),
        ("coverage:9,floor=2", "floor without adaptive, threshold"),
        ("coverage:9,adaptive=gain,threshold=1", "threshold must be 0 or more and below 1 with adaptive=gain, got 1.0"),
        ("coverage:9,adaptive=rank,threshold=0", "threshold must be above 0 with adaptive=rank, got 0.0"),
        ("coverage:9,adaptive=most,threshold=0.1", "adaptive must be one of gain, cover, attention, rank, got 'most'"),
        ("coverage:9,adaptive=gain,threshold=0.1,floor=10", "floor=10 is above 9, the most that a tile keeps"),
        ("coverage:9,adaptive=gain,threshold=0.1,floor=0", "floor must be at least 1, got 0"),
        ("coverage:9,adaptive=gain,threshold=high", "threshold must be a number, got 'high'"),
        ("coverage:9,adaptive=gain,threshold=0.1,tiles=area", "tiles=area shares a fixed total out; leave one"),
        ("coverage:9,adaptive=gain,threshold=0.1|fastv:5", "planned for a number of rows that is known beforehand"),
        (
            "divprune:9,adaptive=gain,threshold=0.1",
            "needs a method that has an order of selection, and divprune has none",
        ),
        ("random:9,tiles=gain", "tiles=gain needs a method that has an order of selection, and random has none"),
        (
            "mmtok:9,adaptive=gain,threshold=0.1",
            "goes by the picture, and mmtok chooses by the question; say text=false",
        ),
        ("fastv:300,adaptive=gain,threshold=0.1", "takes one number"),
        ("coverage:9|fastv:5,adaptive=gain,threshold=0.1", "takes one number"),
        ("coverage:900,adaptive=gain,threshold=0.1", "dominant=900 is outside 1..576"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(inference, text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        inference.model.set_compression(text)
    assert "\n" not in str(refused.value)


def test_methods_without_an_order_are_named():
    able = {name for name in available_compressors() if get_compressor(name).nested is not None}
    assert able == {"coverage", "scope", "mmtok", "fastervlm", "visionzip"}


def test_a_processor_refuses_what_it_cannot_count(inference):
    inference.model.set_compression(IN_MODELS[0])
    is_next = inference.model.config.model_type == "llava_next"
    kind = LlavaNextProcessor if is_next else LlavaProcessor
    with pytest.raises(ValueError, match="a processor writes an image's tokens before the picture can say how many"):
        kind.for_model(inference.model)
    inference.model.set_compression("coverage:49,tiles=gain")
    assert kind.for_model(inference.model).num_visual_tokens([(300, 200)])[0] % 49 == 0


def test_the_short_form_and_the_json_come_back():
    for text in (*BUDGETS, "scope:9,tiles=gain", "coverage:98,alpha=2,adaptive=gain,threshold=0.004,floor=8"):
        budget = CompressionConfig.parse(text)
        again = CompressionConfig.from_dict(budget.to_dict())
        assert (
            str(budget) == text.replace("threshold=0.010", "threshold=0.01")
            and again == budget
            and hash(again) == hash(budget)
        )
    assert "adaptive" not in CompressionConfig.parse("coverage:9").to_dict()
    with pytest.raises(ValueError, match=r"compression\.adaptive has rule; it has rule, threshold, floor"):
        CompressionConfig.from_dict({"method": "coverage", "dominant": 9, "adaptive": {"rule": "gain"}})
