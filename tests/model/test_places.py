"""Where a method stands, and what it is told: behind the projector, for one question, with a CLS token or without."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from PIL import Image

from llava.eval.kits.likelihood import likelihoods
from llava.inference import GenerationOptions, Inference, Question
from llava.kinds import load_plugins
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import TileShape, VisionFeatures, get_compressor, keep_patches
from llava.model.multimodal_compressor.registry import Compressor, register_compressor
from llava.serve.chat import Chat

PLUGIN = Path(__file__).parents[1] / "fixtures" / "plugins" / "nearest_to_question.py"
BUDGET = "nearest_to_question:6"
ASKED = ("Which animal stands there?", "How many windows does the house have?", "yes or no")
SHORT = GenerationOptions(max_new_tokens=6)


@pytest.fixture(scope="module", autouse=True)
def plugin():
    load_plugins([str(PLUGIN)])


@pytest.fixture(scope="module", params=["tiny-llava-v1.5", "tiny-llava-v1.6-next"])
def inference(request, oracle_dir):
    return Inference.load(oracle_dir / request.param, device="cpu", compression=BUDGET)


@pytest.fixture
def pictures(oracle_dir):
    return [oracle_dir / "images" / f"{name}.png" for name in ("landscape", "square")]


def opened(picture):
    with Image.open(picture) as file:
        return file.convert("RGB")


def fresh(inference, text, picture):
    """A prompt by itself, through `generate`."""
    image = opened(picture)
    ids = torch.tensor([inference.tokenize(inference.prompt(Question(text, (picture,))))])
    pixels = inference.preprocess([image])
    options = {"image_sizes": [image.size], "questions": [text], "max_new_tokens": 6, "do_sample": False}
    output = inference.model.generate(ids, images=pixels, **options, **inference.stop_kwargs())
    return inference.until_end(output[0].tolist())


def test_each_question_chooses_for_itself_and_the_tower_runs_once_an_image(inference, pictures):
    questions = [Question(text, (picture,)) for text in ASKED for picture in pictures] * 2
    runs = []
    embeddings = inference.model.model.vision_tower.embeddings
    handle = embeddings.register_forward_hook(lambda module, inputs, output: runs.append(len(output)))
    try:
        answers = {answer.index: answer for answer in inference.ask(questions, options=SHORT)}
    finally:
        handle.remove()
    assert sum(runs) == sum(inference.model.num_visual_tokens([opened(picture).size])[0] // 6 for picture in pictures)
    for index, question in enumerate(questions):
        assert list(answers[index].token_ids) == fresh(inference, question.text, question.images[0])
    kept = [
        inference.model.compress_images(inference.preprocess([opened(pictures[0])]), None, [text]) for text in ASKED
    ]
    assert not torch.equal(kept[0].positions, kept[1].positions)


def test_a_chat_chooses_anew_in_every_turn(inference, pictures):
    chat = Chat(inference, pictures[:1])
    chat.say(ASKED[0], options=SHORT)
    chat.say(ASKED[1], options=SHORT)
    image = opened(pictures[0])
    start, end = chat.answer_spans[1]
    output = inference.model.generate(
        torch.tensor([chat.token_ids[:start]]),
        images=inference.preprocess([image]),
        image_sizes=[image.size],
        questions=[ASKED[1]],
        do_sample=False,
        max_new_tokens=6,
        **inference.stop_kwargs(),
    )
    assert inference.until_end(output[0].tolist()) == chat.token_ids[start:end]


def test_likelihoods_know_the_question(inference, pictures):
    question = Question(ASKED[0], (pictures[0],))
    together = dict(likelihoods(inference, [(question, "cat"), (Question(ASKED[1], (pictures[0],)), "cat")]))
    alone = dict(likelihoods(inference, [(question, "cat")]))
    assert together[0].log_probability == pytest.approx(alone[0].log_probability, abs=1e-4)
    assert together[0].log_probability != pytest.approx(together[1].log_probability, abs=1e-4)


def test_without_the_question_it_is_refused_in_one_line(inference, pictures):
    pixels, sizes = inference.preprocess([opened(pictures[0])]), [opened(pictures[0]).size]
    with pytest.raises(ValueError, match=r"nearest_to_question:6 chooses by the question: give questions=.* none were"):
        inference.model.encode_images(pixels, sizes)
    with pytest.raises(ValueError, match="2 for 1 images were given"):
        inference.model.encode_images(pixels, sizes, list(ASKED[:2]))


# ----- Behind the projector ----------------------------------------------------


@register_compressor("first_projected", places=("projected",))
def first_projected(features: VisionFeatures, budget: CompressionConfig):
    """Keeps the first patches, as the projector gives them."""
    index = torch.arange(budget.num_tokens, device=features.content.device).expand(len(features.patches), -1)
    return keep_patches(features, index)


def test_rows_behind_the_projector_are_the_projectors_and_train_it(oracle_dir, pictures):
    inference = Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu", compression=None)
    model, pixels = inference.model, inference.preprocess([opened(picture) for picture in pictures])
    whole = model.encode_images(pixels)
    model.set_compression("first_projected:5")
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    kept = model.encode_images(pixels)
    torch.testing.assert_close(kept, whole[:, :5])
    kept.sum().backward()
    assert all(weight.grad is not None for weight in model.model.multi_modal_projector.parameters())
    twin = copy.deepcopy(model)
    twin.compile_vision("eager")
    with torch.inference_mode():
        torch.testing.assert_close(twin.encode_images(pixels), kept)


def test_a_place_that_the_model_does_not_offer_is_refused(oracle_dir):
    model = Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu", compression=None).model
    register_compressor("only_pooled", places=("pooled",))(first_projected)
    with pytest.raises(ValueError, match="stands at pooled, and the model offers tower, pixels, projected"):
        model.set_compression("only_pooled:5")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"places": ("roof",)}, "must be some of pixels, tower, projected, pooled"),
        ({"places": ()}, "must be some of"),
        ({"places": ("pixels",)}, "grid belongs to the place 'pixels'"),
        ({"needs": {"cls"}}, "needs cls; there are keys, saliency"),
    ],
)
def test_a_registration_that_makes_no_sense_is_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        register_compressor("nonsense", **wrong)


# ----- The CLS token -----------------------------------------------------------


def test_a_cls_token_may_come_on_top_of_the_budget_or_not_at_all():
    visionzip, budget = get_compressor("visionzip"), CompressionConfig("visionzip", 5, 2)
    usual = TileShape((4, 4), saliency_has_cls=True, keep_cls=True)
    on_top = TileShape((4, 4), saliency_has_cls=True, keep_cls=True, cls_counts=False)
    never = TileShape((4, 4), saliency_has_cls=True, keep_cls=False)
    assert [visionzip.num_tokens(budget, tile) for tile in (usual, on_top, never)] == [7, 8, 7]
    generator = torch.Generator().manual_seed(0)
    rows, keys = torch.randn(2, 17, 6, generator=generator), torch.randn(2, 17, 3, generator=generator)
    saliency = torch.rand(2, 16, generator=generator)

    def kept(tile, content):
        features = VisionFeatures(content, (4, 4), tile.keep_cls, rows[:, 1:], True, keys=keys, saliency=saliency)
        return visionzip.bind(budget, tile)(features)

    most = saliency.topk(5, dim=1).indices.sort(dim=1).values
    assert torch.equal(kept(on_top, rows).positions[:, :6], torch.cat([torch.full((2, 1), -1), most], dim=1))
    assert torch.equal(kept(never, rows[:, 1:]).positions[:, :5], most)
    assert kept(usual, rows).positions[:, 0].tolist() == [-1, -1]


def test_attention_of_a_cls_token_is_refused_where_there_is_none():
    reads = Compressor("reads", first_projected, frozenset({"cls_attention"}), False)
    with pytest.raises(ValueError, match="reads the attention of a CLS token, and this tower has none"):
        reads.check(CompressionConfig("reads", 3), TileShape((4, 4), saliency_has_cls=False, keep_cls=False))
