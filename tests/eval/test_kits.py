"""What answers lmms-eval's requests: the same as `Inference`, in any order and batch; likelihoods as its loss.

Requests have lmms-eval 0.7's form: (text, generation_kwargs or answer, doc_to_visual, doc_id, task, split).
"""

from __future__ import annotations

import ast
import json
import math
import tomllib
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.eval.command import main
from llava.eval.kits import lmms_eval_plugin
from llava.eval.kits.generation_settings import Generation
from llava.eval.kits.likelihood import likelihoods
from llava.eval.kits.model_args import load_inference, read_batch_size
from llava.eval.kits.requests import RequestAnswerer
from llava.images.source import UnreadableImageError
from llava.inference import GenerationOptions, Inference, Question
from llava.mm_utils import process_images, tokenizer_image_token

ROOT = Path(__file__).parents[2]
NAMES = ("small", "wide")
SHORT = {"max_new_tokens": 6, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}


@pytest.fixture(scope="module")
def plain(oracle_dir: Path) -> Inference:
    return Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu", compression="visionzip:54+10")


@pytest.fixture(scope="module", params=["v1.5", pytest.param("v1.6", marks=pytest.mark.slow)])
def inference(request: pytest.FixtureRequest, plain: Inference, oracle_dir: Path) -> Inference:
    """Both kinds: one whose images all have the same length, and one whose images do not."""
    if request.param == "v1.5":
        return plain
    return Inference.load(oracle_dir / "tiny-llava-v1.6-next", device="cpu", compression="visionzip:54+10")


@pytest.fixture(scope="module")
def docs(oracle_dir: Path) -> dict[str, Any]:
    """Documents of two tasks, whose images are opened anew each time, as lmms-eval's are."""
    paths = [oracle_dir / "images" / f"{name}.png" for name in NAMES]
    rows = [{"paths": [paths[number % 2]], "question": "What is it? " * (number % 3 + 1)} for number in range(4)]
    rows.append({"paths": paths, "question": "Which is larger?"})
    rows.append({"paths": [], "question": "Hello."})
    return {"one": {"test": rows}, "two": {"val": rows[1:2]}}


def visual(doc: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in doc["paths"]]


def requests_of(docs: dict[str, Any], second: Any, to_visual: Any = visual) -> list[tuple[Any, ...]]:
    return [
        (row["question"], second, to_visual, number, task, split)
        for task, splits in docs.items()
        for split, rows in splits.items()
        for number, row in enumerate(rows)
    ]


def test_answers_are_those_of_single_questions(inference: Inference, docs: dict[str, Any]) -> None:
    requests = requests_of(docs, SHORT)
    runs: list[int] = []
    embeddings = inference.model.model.vision_tower.embeddings
    handle = embeddings.register_forward_hook(lambda module, inputs, output: runs.append(len(output)))
    answerer, told = RequestAnswerer(inference, 3), []
    together = answerer.generate(requests, docs, lambda: told.append(1))
    handle.remove()
    assert len(told) == len(requests) == 7
    assert [answer.index for answer in together] == list(range(7))
    # Two pictures, whose tiles each go through the tower once, though every request brought its own copy.
    sizes = [Image.open(path).size for path in {path for row in docs["one"]["test"] for path in row["paths"]}]
    assert sum(runs) * 64 == sum(inference.model.num_visual_tokens(sizes))
    assert (answerer.images_encoded, answerer.image_uses) == (2, 7)
    options = GenerationOptions(max_new_tokens=6)
    for request, answer in zip(requests, together, strict=True):
        row = docs[request[4]][request[5]][request[3]]
        placed = " ".join(["<image>"] * len(row["paths"])) + "\n" if row["paths"] else ""
        alone = inference.ask_one(placed + row["question"], *row["paths"], options=options)
        assert (alone.text, alone.token_ids, alone.visual_tokens) == (
            answer.text,
            answer.token_ids,
            answer.visual_tokens,
        )


def test_each_setting_gets_its_own_batches(plain: Inference, docs: dict[str, Any]) -> None:
    requests = requests_of({"one": docs["one"]}, SHORT)[:4]
    requests[1] = (requests[1][0], {**SHORT, "max_new_tokens": 2}, *requests[1][2:])
    answers = RequestAnswerer(plain, 4).generate(requests, docs)
    assert [len(answer.token_ids) for answer in answers][1] == 2
    whole = RequestAnswerer(plain, 4).generate(requests_of({"one": docs["one"]}, SHORT)[:4], docs)
    assert [answer.text for answer in answers[2:]] == [answer.text for answer in whole[2:]]
    # A text in the middle of an answer ends it there.
    end = whole[0].text[len(whole[0].text) // 2 :][:2]
    [cut] = RequestAnswerer(plain, 4).generate([(requests[0][0], {**SHORT, "until": [end]}, *requests[0][2:])], docs)
    assert cut.text == whole[0].text.split(end)[0].strip() != whole[0].text


def wrapper_loss(inference: Inference, question: str, images: list[Image.Image], answer: str) -> float:
    """The loss as lmms-eval's `llava` wrapper has it computed: the model's own, of prompt and answer with labels."""
    conv = conv_templates["vicuna_v1"].copy()
    placed = " ".join(["<image>"] * len(images)) + "\n" + question if images else question
    conv.append_message(conv.roles[0], placed)
    conv.append_message(conv.roles[1], None)
    context = tokenizer_image_token(conv.get_prompt(), inference.tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")
    conv.messages[1][1] = answer
    ids = tokenizer_image_token(conv.get_prompt(), inference.tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")[None]
    labels = ids.clone()
    labels[0, : len(context)] = -100
    pixels = process_images(images, inference.image_processor, inference.model.config) if images else None
    sizes = [list(image.size) for image in images]
    with torch.inference_mode():
        output = inference.model(input_ids=ids, labels=labels, images=pixels, use_cache=True, image_sizes=sizes)
    return float(output["loss"])


def test_likelihoods_are_the_models_loss(inference: Inference, docs: dict[str, Any]) -> None:
    requests = requests_of({"one": docs["one"]}, "a red square")
    requests += requests_of({"two": docs["two"]}, lambda doc: f" {len(doc['question'])} of them")
    found = RequestAnswerer(inference, 3).likelihoods(requests, docs)
    for (text, target, _, number, task, split), likelihood in zip(requests, found, strict=True):
        row = docs[task][split][number]
        answer = target if isinstance(target, str) else target(row).lstrip()
        assert likelihood.loss == pytest.approx(wrapper_loss(inference, text, visual(row), answer), abs=2e-5)
        assert not likelihood.is_greedy


def test_likelihoods_with_numbers_of_tokens_that_the_pictures_say(oracle_dir: Path, docs: dict[str, Any]) -> None:
    """Where an answer stands follows from what its images kept, not from the most that they may keep."""
    budget = "coverage:60,adaptive=gain,threshold=0.009,floor=5"
    inference = Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu", compression=budget)
    assert len({len(image) for image in inference.encode(visual(docs["one"]["test"][4]))} | {60}) == 3
    requests = requests_of({"one": docs["one"]}, "a red square")
    found = RequestAnswerer(inference, 8).likelihoods(requests, docs)
    for request, likelihood in zip(requests, found, strict=True):
        row = docs["one"]["test"][request[3]]
        expected = wrapper_loss(inference, request[0], visual(row), "a red square")
        assert likelihood.loss == pytest.approx(expected, abs=2e-5)


def test_a_word_is_as_likely_as_the_next_tokens_logits_say(plain: Inference, docs: dict[str, Any]) -> None:
    """Of one-token words: the log-probability is that of the word, and that of the end after it."""
    row = docs["one"]["test"][0]
    question = Question(row["question"], tuple(row["paths"]))
    prompt, pixels = plain.prompt(question), plain.preprocess(visual(row))
    ids = plain.tokenize(prompt)
    words = {token: plain.tokenizer.decode([token]) for token in range(259, 700)}
    single = {token: word for token, word in words.items() if plain.tokenize(f"{prompt} {word}") == [*ids, token]}
    single = dict(list(single.items())[:12])
    assert len(single) == 12
    found = dict(likelihoods(plain, [(question, word) for word in single.values()], batch_size=32))
    with torch.inference_mode():
        for number, token in list(enumerate(single))[:3]:
            logits = plain.model(torch.tensor([[*ids, token]]), images=pixels).logits[0, -2:].log_softmax(-1)
            end = plain.tokenizer.eos_token_id
            expected = float(logits[0, token] + logits[1, end])
            assert found[number].log_probability == pytest.approx(expected, abs=1e-4)
            assert found[number].num_tokens == 2
            assert found[number].is_greedy == (logits.argmax(-1).tolist() == [token, end])


def test_the_models_own_answer_is_greedy(tmp_path: Path) -> None:
    model = ROOT / "playground" / "tiny" / "model"
    inference = Inference.load(model, device="cpu", compression=None)
    path = tmp_path / "blank.png"
    Image.new("RGB", (112, 112)).save(path)
    docs = {"t": {"s": [{"paths": [path]}]}}
    [answer] = RequestAnswerer(inference).generate([("Is there a 3?", SHORT, visual, 0, "t", "s")], docs)
    other = "yes" if answer.text == "no" else "no"
    said, unsaid = RequestAnswerer(inference, 2).likelihoods(
        [("Is there a 3?", text, visual, 0, "t", "s") for text in (answer.text, other)], docs
    )
    assert said.is_greedy and not unsaid.is_greedy and said.loss < unsaid.loss
    assert math.exp(said.log_probability) + math.exp(unsaid.log_probability) <= 1


def test_answers_are_those_of_the_runner(tiny_data: Path, tmp_path: Path) -> None:
    """The tiny model through `python -m llava.eval` and through requests: equal texts for every sample."""
    model = str(ROOT / "playground" / "tiny" / "model")
    arguments = ["--model-path", model, "--tasks", "tiny_vqa", "--device", "cpu", "--latency-repeats", "0"]
    arguments += ["--compression", "visionzip:41+8", "--data-root", str(tiny_data), "--output-dir", str(tmp_path)]
    assert main(arguments) == 0
    _, *lines = (tmp_path / "answers" / "tiny_vqa" / "visionzip_41+8.jsonl").read_text().splitlines()
    said = {row["question_id"]: row["text"] for row in map(json.loads, lines)}
    rows = json.loads((tiny_data / "eval_vqa.json").read_text())
    docs = {"vqa": {"test": [{"paths": [tiny_data / "images" / row["image"]]} for row in rows]}}
    inference = load_inference(model, device="cpu", compression="visionzip:41+8", dtype="float32")
    requests = [(row["text"], {"max_new_tokens": 64}, visual, number, "vqa", "test") for number, row in enumerate(rows)]
    answers = RequestAnswerer(inference, read_batch_size("auto")).generate(requests, docs)
    assert [answer.text for answer in answers] == [said[str(row["question_id"])] for row in rows]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, GenerationOptions(max_new_tokens=1024)),
        (SHORT, GenerationOptions(max_new_tokens=6)),
        ({"temperature": 1.0, "top_p": 0.5, "do_sample": False}, GenerationOptions(max_new_tokens=1024)),
        ({"temperature": 0, "top_p": 0}, GenerationOptions(max_new_tokens=1024)),
        ({"temperature": 0.2, "num_beams": None}, GenerationOptions(1024, temperature=0.2, top_p=1.0)),
        ({"temperature": 0.2, "top_p": 0.9, "num_beams": 2}, GenerationOptions(1024, 0.2, 0.9, num_beams=2)),
    ],
)
def test_generation_settings_are_followed(settings: dict[str, Any], expected: GenerationOptions) -> None:
    assert Generation.read(settings).options == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2 cannot be followed; known are do_sample"),
        ({"image_aspect_ratio": "original"}, "is a setting of the model"),
        ({"do_sample": True}, "do_sample=true needs a temperature above 0"),
        ({"do_sample": "maybe"}, "do_sample must be true or false, got 'maybe'"),
        ({"max_new_tokens": 1.5}, "max_new_tokens must be a whole number, got 1.5"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": "low"}, "temperature must be a number, got 'low'"),
        ({"temperature": 0.5, "top_p": 0}, "top_p must be above 0"),
        ({"until": [7]}, "until must be a text or a list of texts"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Generation.read(settings)


def test_answers_end_where_until_says() -> None:
    generation = Generation.read({"until": ["\n\n", "ASSISTANT:", ""]})
    assert generation.cut(" two\n\nthree ASSISTANT: four") == "two"
    assert generation.cut("two ASSISTANT: four\n\n") == "two"
    assert Generation.read({"until": "."}).cut("a. b.") == "a"
    assert generation.cut("two\nthree") == "two\nthree"


def test_wrong_requests_raise_before_any_is_answered(plain: Inference, docs: dict[str, Any]) -> None:
    answerer = RequestAnswerer(plain, 2)
    good = requests_of({"two": docs["two"]}, SHORT)
    told: list[int] = []

    def refused(request: tuple[Any, ...], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            answerer.generate([*good, request], docs, lambda: told.append(1))

    named = "task one, split test, document 1: "
    refused(("<image> <image> ?", SHORT, visual, 1, "one", "test"), ValueError, named + "the text has 2 <image> but 1")
    refused(("?", SHORT, lambda doc: [{"array": []}], 1, "one", "test"), ValueError, named + "only images .* a dict")
    refused((7, SHORT, visual, 1, "one", "test"), ValueError, named + "the prompt must be a text, got 7")
    refused(("?", {"top_k": 3}, visual, 1, "one", "test"), ValueError, "top_k=3 cannot be followed")

    def broken(doc: dict[str, Any]) -> list[Image.Image]:
        raise OSError("image file is truncated")

    refused(("?", SHORT, broken, 1, "one", "test"), UnreadableImageError, named + "cannot read its image: .*truncated")
    assert not told
    with pytest.raises(ValueError, match="acc_mutual_info"):
        answerer.likelihoods([("", "red")], docs)
    with pytest.raises(ValueError, match="no answer to score"):
        answerer.likelihoods([("?", " ", visual, 1, "one", "test")], docs)


def test_an_answer_beyond_the_models_length_is_refused(
    plain: Inference, docs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain.model.config, "tokenizer_model_max_length", 90, raising=False)
    with pytest.raises(ValueError, match="tokens, the model reads 90"):
        RequestAnswerer(plain).likelihoods([("What? " * 9, "red", visual, 0, "one", "test")], docs)


def test_model_args_are_followed_or_refused(oracle_dir: Path) -> None:
    checkpoint = str(oracle_dir / "tiny-llava-v1.5")
    inference = load_inference(
        checkpoint, device="cpu", compression="random:64", conv_template="llava_v0", image_aspect_ratio="square"
    )
    assert str(inference.model.compression) == "random:64"
    assert (inference.conv_mode, inference.model.config.image_aspect_ratio) == ("llava_v0", "square")
    assert load_inference(checkpoint, device="cpu", compression="none", dtype="float32").model.compression is None
    for wrong, message in (
        ({"compresion": "none"}, "--model_args: unknown: compresion; known: pretrained, .*compression"),
        ({"compression": "visionzip"}, "not of the form"),
        ({"conv_template": "v9"}, "no conversation template 'v9'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_inference(checkpoint, device="cpu", **wrong)
    assert [read_batch_size(value) for value in ("auto", "auto:4", 3, "16")] == [None, None, 3, 16]
    for value in (0, "many", "-1"):
        with pytest.raises(ValueError, match="--batch_size must be a whole number"):
            read_batch_size(value)


def test_lmms_eval_finds_the_model_by_an_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [(name, target)] = project["entry-points"]["lmms_eval.models"].items()
    module, _, attribute = target.partition(":")
    assert name == lmms_eval_plugin.MODEL_ID
    assert getattr(import_module(module), attribute) is lmms_eval_plugin.manifest
    # The class needs lmms-eval to be imported, so without it the file itself is looked at.
    module, _, class_name = lmms_eval_plugin.CLASS_PATH.rpartition(".")
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    [found] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name]
    methods = {node.name for node in found.body if isinstance(node, ast.FunctionDef)}
    assert {"generate_until", "loglikelihood", "generate_until_multi_round"} <= methods
    others = [path for path in (ROOT / "llava").rglob("*.py") if str(path) != spec.origin]
    importing = [path.name for path in others if "from lmms_eval" in path.read_text(encoding="utf-8")]
    assert importing == ["lmms_eval_plugin.py"], "and that only when it is called"
    extras = project["optional-dependencies"].values()
    assert not [line for line in chain(project["dependencies"], *extras) if "lmms" in line]
