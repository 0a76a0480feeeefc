"""LMDeploy's and plain transformers' inputs give our own logits, bit for bit in fp32."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
)

from llava.hub.export import export
from llava.inference import GenerationOptions, Inference
from llava.serve.embeds import embed_question, lmdeploy, plain_transformers, save_text_model
from tests.model.folders import copy_recorded_onevision
from tests.serve.embeds.conftest import ADAPTIVE, LANDSCAPE, PORTRAIT, TEXT, own_logits


@torch.no_grad()
def test_lmdeploy_reads_rows_in_the_place_of_ranges(uneven, inference, text_model):
    """As TurboMind: ids are looked up, then the ranges are overwritten."""
    inputs = lmdeploy.turbomind_inputs(uneven)
    ids, rows, ranges = inputs["input_ids"], inputs["input_embeddings"], inputs["input_embedding_ranges"]
    assert [end - begin for begin, end in ranges] == [len(each) for each in rows] == list(uneven.rows)
    embeds = text_model.get_input_embeddings()(torch.tensor(ids)).clone()
    for each, (begin, end) in zip(rows, ranges, strict=True):
        assert ids[begin:end] == [0] * len(each)
        embeds[begin:end] = each
    expected = own_logits(inference, TEXT, LANDSCAPE, PORTRAIT, compression=ADAPTIVE)
    assert torch.equal(text_model(inputs_embeds=embeds[None]).logits, expected)


@torch.no_grad()
def test_mm_encoder_outputs_and_inputs_embeds(uneven, inference, plain, text_model):
    expected = own_logits(inference, TEXT, LANDSCAPE, PORTRAIT, compression=ADAPTIVE)
    inputs = plain_transformers.encoder_outputs(uneven)
    assert int((inputs["input_ids"] == plain.config.image_token_id).sum()) == sum(uneven.rows)
    assert torch.equal(plain(**inputs).logits, expected)
    embedded = plain_transformers.input_embeddings(uneven, inference.model)
    assert torch.equal(plain(**embedded).logits, expected)
    assert torch.equal(text_model(**embedded).logits, expected)


def test_generate_answers_as_the_model_does(ask, inference, plain):
    answer = inference.ask_one(TEXT, LANDSCAPE, options=GenerationOptions(max_new_tokens=8)).token_ids
    assert answer
    options = {"do_sample": False, "max_new_tokens": 8}
    for inputs in (plain_transformers.encoder_outputs(ask()), plain_transformers.input_embeddings(ask(), plain)):
        new = plain.generate(**inputs, **options)[0].tolist()
        new = new[inputs["input_ids"].shape[1] :] if "input_ids" in inputs else new
        assert tuple(new[: len(answer)]) == answer


def test_a_question_without_images_has_no_outputs(inference, plain):
    inputs = plain_transformers.encoder_outputs(embed_question(inference, "How many are two?"))
    assert set(inputs) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    ("name", "plain_class"),
    [
        ("tiny-llava-v1.5", LlavaForConditionalGeneration),
        ("tiny-llava-v1.6-next", LlavaNextForConditionalGeneration),
        ("onevision", LlavaOnevisionForConditionalGeneration),
    ],
)
@torch.no_grad()
def test_llavas_own_checkpoints_are_served(name, plain_class, oracle_dir, tmp_path):
    """SentencePiece's tokenizer, an image token outside the vocabulary, tiles with a newline, Qwen 2."""
    folder = copy_recorded_onevision(tmp_path) if name == "onevision" else oracle_dir / name
    inference = Inference.load(folder, device="cpu", compression="visionzip:20+4")
    question = embed_question(inference, "What is this?", LANDSCAPE)
    opened = inference.open([LANDSCAPE])
    ids = torch.tensor([question.ids])
    expected = inference.model(ids, images=inference.preprocess(opened), image_sizes=[opened[0].size]).logits
    export(folder, "hf", tmp_path / "hf", progress=False)
    plain = plain_class.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    got = plain(**plain_transformers.encoder_outputs(question)).logits
    assert torch.equal(got[..., : expected.shape[-1]], expected)  # an export has rows for the image token more
    save_text_model(inference.model, inference.tokenizer, tmp_path / "text")
    text_model = AutoModelForCausalLM.from_pretrained(tmp_path / "text", dtype=torch.float32).eval()
    embedded = plain_transformers.input_embeddings(question, inference.model)
    assert torch.equal(text_model(**embedded).logits, expected)
