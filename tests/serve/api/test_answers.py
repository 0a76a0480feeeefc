"""What a client gets is what `Inference.ask_one` gives; asked by OpenAI's own client and by curl."""

from __future__ import annotations

import json
import shutil
import subprocess

import openai
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from llava.inference import GenerationOptions, Inference, Question
from llava.serve.api.sampling import DrawnRows, Sampling
from tests.serve.api.conftest import BUDGET, Running, Start, asked, picture


@pytest.fixture(scope="module")
def running(start: Start) -> Running:
    return start()


def expected(alone: Inference, text: str, *images: bytes, budget: str | None = BUDGET, tokens: int = 8) -> str:
    alone.model.set_compression(budget)
    return alone.ask_one(text, *images, options=GenerationOptions(tokens)).text


@pytest.mark.parametrize(
    ("model", "budget", "visual"),
    [("tiny", BUDGET, 64), ("tiny@visionzip:20+4", "visionzip:20+4", 24), ("tiny@none", None, 576)],
)
def test_an_answer_is_that_of_ask_one(
    model: str, budget: str | None, visual: int, running: Running, alone: Inference
) -> None:
    said = running.client.chat.completions.create(**asked("What is this?", picture(), model=model))
    assert said.choices[0].message.content == expected(alone, "What is this?", picture(), budget=budget)
    assert said.model == model and said.choices[0].finish_reason == "length"
    assert said.usage is not None and said.usage.completion_tokens == 8
    assert said.usage.prompt_tokens_details.visual_tokens == visual
    answer = alone.ask_one("What is this?", picture(), options=GenerationOptions(8))
    assert said.usage.prompt_tokens == answer.prompt_tokens and said.usage.total_tokens == answer.prompt_tokens + 8


def test_a_stream_says_the_same_in_pieces(running: Running, alone: Inference) -> None:
    body = asked("Describe it.", picture(1), max_tokens=24, stream=True, stream_options={"include_usage": True})
    chunks = list(running.client.chat.completions.create(**body))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(piece or "" for piece in pieces) == expected(alone, "Describe it.", picture(1), tokens=24)
    assert len([piece for piece in pieces if piece]) > 3
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert len({chunk.id for chunk in chunks}) == 1 and chunks[-1].usage.completion_tokens == 24


def test_several_images_stand_in_their_order(running: Running, alone: Inference) -> None:
    images = (picture(2), picture(3))
    for text in ("Compare.", "First <image> and then <image>, compare."):
        said = running.client.chat.completions.create(**asked(text, *images))
        assert said.choices[0].message.content == expected(alone, text, *images)
        assert said.usage.prompt_tokens_details.images == 2


def test_turns_and_a_system_text_make_llavas_prompt(running: Running, alone: Inference) -> None:
    first = asked("What is it?", picture(4))["messages"][0]
    messages = [
        {"role": "system", "content": "Be brief."},
        first,
        {"role": "assistant", "content": "A square."},
        {"role": "user", "content": "Of which colour?"},
    ]
    said = running.client.chat.completions.create(model="tiny", messages=messages, max_tokens=8)
    prompt = "Be brief. USER: <image>\nWhat is it? ASSISTANT: A square.</s>USER: Of which colour? ASSISTANT:"
    question = Question("Of which colour?", (picture(4),), (("<image>\nWhat is it?", "A square."),), "Be brief.")
    assert alone.prompt(question) == prompt
    alone.model.set_compression(BUDGET)
    ids = alone.model.generate(
        torch.tensor([alone.tokenize(prompt)]),
        image_features=alone.encode(alone.open([picture(4)])),
        do_sample=False,
        max_new_tokens=8,
        pad_token_id=alone.pad_token_id,
    )[0].tolist()
    assert said.choices[0].message.content == alone.decode(alone.until_end(ids))


def test_an_answer_ends_before_a_stop_in_a_stream_too(running: Running, alone: Inference) -> None:
    whole = expected(alone, "Say something long.", tokens=40)
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    before = whole[: whole.index(stop)].strip()
    body = asked("Say something long.", max_tokens=40, stop=["never said", stop])
    said = running.client.chat.completions.create(**body).choices[0]
    assert (said.message.content, said.finish_reason) == (before, "stop")
    chunks = list(running.client.chat.completions.create(**body, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == before
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_draws_are_those_of_their_seed_whatever_stands_beside_them(running: Running, alone: Inference) -> None:
    body = asked("Draw.", picture(5), temperature=1.5, top_p=0.9, seed=7, n=3)
    first = [choice.message.content for choice in running.client.chat.completions.create(**body).choices]
    assert len(set(first)) == 3, "each of several answers has draws of its own"
    again = running.client.chat.completions.create(**body | {"n": 1}).choices[0].message.content
    assert again == first[0]
    other = running.client.chat.completions.create(**body | {"seed": 8, "n": 1}).choices[0].message.content
    assert other == first[1], "the seed of a further answer is one more"
    narrow = running.client.chat.completions.create(**asked("Draw.", picture(5), temperature=1.5, top_p=1e-6))
    assert narrow.choices[0].message.content == expected(alone, "Draw.", picture(5)), "the likeliest token alone"


def test_several_answers_stream_side_by_side(running: Running) -> None:
    body = asked("Draw.", picture(6), temperature=1.0, seed=3, n=2)
    whole = [choice.message.content for choice in running.client.chat.completions.create(**body).choices]
    said = ["", ""]
    for chunk in running.client.chat.completions.create(**body, stream=True):
        said[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert said == whole and whole[0] != whole[1]


def test_draws_follow_temperature_and_top_p() -> None:
    """Against the probabilities that transformers' own processors leave."""
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0, -6.0]).log_softmax(dim=0)
    left = TopPLogitsWarper(0.8)(None, TemperatureLogitsWarper(1.5)(None, scores[None].clone())).softmax(dim=-1)[0]
    rows = 2000
    draw = DrawnRows([Sampling(1.5, 0.8, seed) for seed in range(rows)] + [Sampling(0, 1, 0)])
    after = draw(None, scores.repeat(rows + 1, 1))
    assert torch.equal(after[-1], scores), "a greedy row is left as it is"
    assert ((after[:-1] > -torch.inf).sum(dim=1) == 1).all()
    shares = after[:-1].argmax(dim=1).bincount(minlength=5) / rows
    assert (shares - left).abs().max() < 0.04 and not shares[left == 0].any(), (shares, left)


def test_an_image_is_encoded_once_for_all_requests(running: Running) -> None:
    before = running.count("llava_images_encoded_total")
    for text in ("One?", "Two?", "Three?"):
        running.client.chat.completions.create(**asked(text, picture(77)))
    assert running.count("llava_images_encoded_total") == before + 1
    running.client.chat.completions.create(**asked("One?", picture(77), model="tiny@visionzip:20+4"))
    assert running.count("llava_images_encoded_total") == before + 2, "another budget is another encoding"


def test_the_models_are_listed(running: Running) -> None:
    names = [model.id for model in running.client.models.list()]
    assert names == ["tiny", f"tiny@{BUDGET}", "tiny@none"]
    assert running.client.models.retrieve("tiny@visionzip:20+4").compression == "visionzip:20+4"
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        running.client.models.retrieve("other")


def test_curl_is_answered(running: Running, alone: Inference) -> None:
    curl = shutil.which("curl")
    assert curl, "curl is one of the clients that are promised"
    body = json.dumps(asked("What is this?", picture()))
    words = [curl, "-sN", f"{running.url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", "@-"]
    done = subprocess.run(words, input=body, capture_output=True, text=True, timeout=120, check=True)
    text = expected(alone, "What is this?", picture())
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == text
    body = json.dumps(asked("What is this?", picture(), stream=True))
    done = subprocess.run(words, input=body, capture_output=True, text=True, timeout=120, check=True)
    events = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line]
    assert events[-1] == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]) == text
