"""What vLLM reads of a request is what the model would have seen: bytes, prompt, and logits of plain transformers."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from llava.inference import GenerationOptions
from llava.serve.embeds import UnequalRowsError, vllm
from llava.serve.embeds.wire import to_base64
from tests.serve.embeds.conftest import ADAPTIVE, LANDSCAPE, PORTRAIT, ROWS, TEXT, own_logits, with_rows

NUMPY = b"\x93NUMPY"


def read(text: str) -> torch.Tensor:
    """As vLLM 0.33 reads image_embeds: NumPy by its first bytes, else torch's archive without anything but weights."""
    data = base64.b64decode(text, validate=True)
    if data[: len(NUMPY)] == NUMPY:
        return torch.from_numpy(np.load(io.BytesIO(data), allow_pickle=False))
    return torch.load(io.BytesIO(data), weights_only=True)


def sent(request: dict) -> dict:
    """The request after a trip through JSON."""
    return json.loads(json.dumps(request))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", ["npy", "torch"])
def test_a_tensor_comes_back_bit_for_bit(form, dtype):
    rows = torch.randn(7, 16).to(dtype)
    if form == "npy" and dtype == torch.bfloat16:
        with pytest.raises(ValueError, match="npy has no bfloat16"):
            to_base64(rows, form)
        return
    found = read(to_base64(rows, form))
    assert found.dtype == dtype and torch.equal(found, rows)


@pytest.mark.parametrize("form", ["npy", "torch"])
def test_of_a_view_no_more_is_sent_than_is_seen(form):
    whole = torch.randn(1000, 64)
    assert len(to_base64(whole[3:5], form)) < 4000
    assert torch.equal(read(to_base64(whole[3:5], form)), whole[3:5])


def test_sixty_four_rows_of_7b_take_what_the_page_says():
    assert 0.69e6 < len(to_base64(torch.zeros(64, 4096, dtype=torch.float16), "npy")) < 0.71e6


@pytest.mark.parametrize("form", ["npy", "torch"])
@pytest.mark.parametrize(
    ("text", "images"),
    [
        (TEXT, (LANDSCAPE,)),
        (TEXT, (LANDSCAPE, PORTRAIT)),
        ("This is <image>\nand this <image>\nWhich is red?", (PORTRAIT, LANDSCAPE)),
    ],
    ids=["one", "two", "among the words"],
)
def test_image_embeds_give_our_own_logits(form, text, images, ask, inference, plain, plain_processor):
    request = sent(vllm.chat_request(ask(text, *images), "llava", form=form))
    (message,) = request["messages"]
    rows = [read(part["image_embeds"]) for part in message["content"] if part["type"] == "image_embeds"]
    assert [each.shape for each in rows] == [(ROWS, 128)] * len(images)
    # The server renders an image_embeds part as an image, by the exported template.
    shown = [part if part["type"] == "text" else {"type": "image"} for part in message["content"]]
    prompt = plain_processor.apply_chat_template([{**message, "content": shown}], add_generation_prompt=True)
    token = plain.config.image_token_id
    ids = plain_processor.tokenizer(prompt, add_special_tokens=request["add_special_tokens"]).input_ids
    assert ids.count(token) == len(images)
    ids = with_rows(ids, rows, token)
    assert ids.count(token) == ROWS * len(images)
    with torch.no_grad():
        outputs = {"image": BaseModelOutputWithPooling(pooler_output=rows)}
        got = plain(input_ids=torch.tensor([ids]), mm_encoder_outputs=outputs).logits
    assert torch.equal(got, own_logits(inference, text, *images))


def test_equal_images_have_one_uuid_and_others_another(ask):
    def uuid(question):
        parts = vllm.chat_request(question, "llava")["messages"][0]["content"]
        return [part["uuid"] for part in parts if part["type"] == "image_embeds"]

    assert uuid(ask(TEXT, LANDSCAPE)) == uuid(ask("What else?", LANDSCAPE))
    first, second = uuid(ask(TEXT, LANDSCAPE, PORTRAIT))
    assert first != second


def test_text_that_does_not_begin_a_line_behind_an_image_is_refused(ask):
    with pytest.raises(ValueError, match=r"behind <image> stands ' or not\?', and the server's template begins a line"):
        vllm.chat_request(ask("Is it <image> or not?"), "llava")


def test_offline_prompts_have_one_token_an_image(ask, inference, plain):
    questions = [ask(TEXT, LANDSCAPE, PORTRAIT), ask("Is it <image> or not?", PORTRAIT)]
    token = plain.config.image_token_id
    asked = [(TEXT, (LANDSCAPE, PORTRAIT)), ("Is it <image> or not?", (PORTRAIT,))]
    for given, (text, images) in zip(vllm.offline_prompts(questions), asked, strict=True):
        rows = given["multi_modal_data"]["image"]
        assert given["prompt_token_ids"].count(token) == len(images) == len(rows)
        ids = with_rows(given["prompt_token_ids"], rows, token)
        with torch.no_grad():
            outputs = {"image": BaseModelOutputWithPooling(pooler_output=rows)}
            got = plain(input_ids=torch.tensor([ids]), mm_encoder_outputs=outputs).logits
        assert torch.equal(got, own_logits(inference, text, *images))


def test_unequal_rows_are_refused_with_the_reason_and_both_ways_out(ask, uneven):
    reason = r"images have \d+, \d+ rows, .*\(bn, ifs, hs\) has no dynamic ifs.*same number.*prompt_embeds"
    with pytest.raises(UnequalRowsError, match=reason):
        vllm.chat_request(uneven, "llava")
    with pytest.raises(UnequalRowsError, match=reason):
        vllm.offline_prompts([uneven])
    few = ask(TEXT, compression="visionzip:17+3")
    with pytest.raises(UnequalRowsError, match="images have 20, 49 rows"):  # across requests, too
        vllm.offline_prompts([ask(), few])
    assert vllm.check_equal_rows([ask(), ask(TEXT, LANDSCAPE, PORTRAIT)]) == ROWS
    assert vllm.check_equal_rows([]) is None


def test_prompt_embeds_take_unequal_rows_and_give_our_own_logits(uneven, inference, text_model):
    request = sent(vllm.prompt_embeds_request(uneven, inference.model, "vicuna"))
    rows = read(request["prompt_embeds"])
    assert rows.shape == (len(uneven.ids) - 2 + sum(uneven.rows), 128) and "messages" not in request
    expected = own_logits(inference, TEXT, LANDSCAPE, PORTRAIT, compression=ADAPTIVE)
    with torch.no_grad():
        assert torch.equal(text_model(inputs_embeds=rows[None]).logits, expected)


def test_a_request_says_how_it_is_to_be_answered(ask, inference):
    question = ask()
    options = GenerationOptions(max_new_tokens=7, temperature=0.5, top_p=0.9)
    request = vllm.chat_request(question, "llava", options=options)
    assert {name: request[name] for name in ("model", "max_tokens", "temperature", "top_p", "add_special_tokens")} == {
        "model": "llava",
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "add_special_tokens": True,
    }
    greedy = vllm.prompt_embeds_request(question, inference.model, "vicuna")
    assert greedy["temperature"] == 0 and "top_p" not in greedy and "stop" not in greedy
    with pytest.raises(ValueError, match="num_beams"):
        vllm.chat_request(question, "llava", options=GenerationOptions(num_beams=2))


def test_a_templates_separator_is_sent_as_stop(inference):
    from llava.inference import Inference
    from llava.serve.embeds import embed_question

    v0 = Inference(inference.tokenizer, inference.model, inference.image_processor, conv_mode="v0")
    assert vllm.chat_request(embed_question(v0, TEXT, LANDSCAPE), "llava")["stop"] == ["###"]
