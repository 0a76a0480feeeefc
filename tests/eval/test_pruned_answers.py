"""A method inside the language model: batches, shared prefixes, chat and evaluation answer what one prompt gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from llava.eval.command import main
from llava.eval.kits.likelihood import likelihoods
from llava.inference import GenerationOptions, Inference, Question
from llava.serve.chat import Chat
from tests.eval.test_prefixes import tokens_seen, without_sharing

TINY = Path(__file__).resolve().parents[2] / "playground" / "tiny"
NAMED = "fastv prunes inside the language model, and"
SHORT = GenerationOptions(max_new_tokens=5)
BUDGETS = ["fastv:90,layer=1", "pyramiddrop:120", "sparsevlm:110", "sparsevlm:110,version=2"]
BUDGETS += ["visionzip:41+8|fastv:20,layer=1"]


@pytest.fixture(scope="module")
def inference() -> Inference:
    return Inference.load(TINY / "model", device="cpu", torch_dtype="float32", compression="none")


@pytest.fixture(scope="module")
def questions(tiny_data: Path) -> list[Question]:
    first, second = (str(path) for path in sorted((tiny_data / "images").glob("eval_*.png"))[:2])
    return [
        Question("Which digit is in the northwest?", (first,)),
        Question("Is there a 7? Answer yes or no, please.", (first,)),
        Question("Which digit is in the southeast?", (second,)),
        Question("Which digit is in the northwest?", (second, first)),
        Question("Hello there"),
    ]


@pytest.fixture(params=BUDGETS)
def budget(request, inference):
    inference.model.set_compression(request.param)
    yield request.param
    inference.model.set_compression(None)


def test_batches_and_shared_prefixes(inference, questions, budget):
    alone = [without_sharing(inference).ask_one(q.text, *q.images, options=SHORT) for q in questions]
    shared = sorted(inference.ask(questions, batch_size=3, options=SHORT), key=lambda answer: answer.index)
    assert [answer.token_ids for answer in shared] == [answer.token_ids for answer in alone]
    rows = inference.model.num_visual_tokens([(224, 224)])[0]
    read = inference.model.model.mean_visual_tokens([rows])
    assert [answer.visual_tokens for answer in shared] == [read, read, read, 2 * read, 0]
    assert read == pytest.approx(int(budget.split(":")[-1].split(",")[0]), abs=0.5)


def test_only_what_stands_before_the_image_is_shared(inference, questions):
    """With a method before the language model, an image that two questions share is read once; inside it, never."""
    texts = ("Which digit is in the east?", "How many digits are there?")
    same = [Question(text, questions[0].images) for text in texts]
    inference.model.set_compression("fastv:90,layer=1")
    seen: list[int] = []
    embed = inference.model.model.language_model.layers[0]
    hook = embed.register_forward_pre_hook(lambda _module, args: seen.append(args[0].shape[1]))
    list(inference.ask(same, batch_size=2, options=GenerationOptions(max_new_tokens=1)))
    hook.remove()
    before_image = inference.tokenize(inference.prompt(same[0])).index(-200)
    assert seen[0] == before_image and seen[1] > 196
    inference.model.set_compression("visionzip:41+8")
    assert tokens_seen(inference, same, 2)[0][1] == before_image + 49
    inference.model.set_compression(None)


def test_later_turns_of_a_chat_equal_fresh_runs(inference, questions, budget):
    chat = Chat(inference, questions[0].images)
    with Image.open(questions[0].images[0]) as file:
        image = file.convert("RGB")
    for text in ("Which digit is in the northwest?", "And in the southeast?"):
        said = chat.say(text, options=SHORT)
        begin, end = chat.answer_spans[-1]
        fresh = inference.model.generate(
            torch.tensor([chat.token_ids[:begin]]),
            images=inference.preprocess([image]),
            image_sizes=[image.size],
            do_sample=False,
            max_new_tokens=5,
            **inference.stop_kwargs(),
        )[0].tolist()
        assert chat.token_ids[begin:end] == inference.until_end(fresh) and said
    chat.restart()
    assert chat.say("Which digit is in the northwest?", options=SHORT) == chat.messages[0][1]


def test_compiled_decoding_and_likelihoods_are_refused(inference, questions):
    inference.model.set_compression("fastv:90,layer=1")
    parts = inference.tokenizer, inference.model, inference.image_processor
    compiled = Inference(*parts, conv_mode=inference.conv_mode, compile=True)
    with pytest.raises(ValueError, match=f"{NAMED} a static cache"):
        compiled.ask_one(questions[0].text, *questions[0].images, options=SHORT)
    with pytest.raises(ValueError, match=f"{NAMED} rows of the prompt have no logits"):
        list(likelihoods(inference, [(questions[0], "3")]))
    inference.model.set_compression(None)


def test_the_evaluation_prints_what_is_read(tiny_data, tmp_path):
    """`llava eval` with a method inside: one command, tokens as the layers read them on average."""
    budgets = ["none", "fastv:90,layer=1", "visionzip:41+8|fastv:20,layer=1"]
    flags = [flag for budget in budgets for flag in ("--compression", budget)]
    flags += ["--limit", "6", "--device", "cpu", "--output-dir", str(tmp_path), "--data-root", str(tiny_data)]
    main(["--model-path", str(TINY / "model"), "--tasks", "tiny_vqa", *flags])
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    assert [row["compression"] for row in rows] == budgets
    assert [row["tokens"] for row in rows] == [196, 90, pytest.approx(20, abs=0.5)]
