"""Rows from a model or from a store without weights: the same; and what cannot be served is refused in a line."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from PIL import Image

import llava.store
from llava.encoded.errors import StoreError, StoreMismatchError
from llava.encoded.store import EncodedStore
from llava.images.source import UnreadableImageError
from llava.inference import Inference
from llava.inference.prompting import PromptWriter
from llava.model.checkpoints.files import CheckpointError
from llava.serve.embeds import embed_from_store, embed_question, save_text_model
from llava.serve.embeds.plain_transformers import encoder_outputs, prompt_rows
from llava.store.command import main
from llava.video import Video
from tests.serve.embeds.conftest import BUDGET, IMAGES, LANDSCAPE, MODEL, PORTRAIT, ROWS, TEXT, own_logits


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Callable[..., EncodedStore]:
    """Builds a store of the pictures, and opens it."""

    def build(*more: str, compression: str = BUDGET) -> EncodedStore:
        folder = tmp_path_factory.mktemp("store") / "store"
        words = ["build", "--model-path", str(MODEL), "--device", "cpu", "--compression", compression, *more]
        assert main([*words, "--images", str(IMAGES), "--output", str(folder)]) == 0
        return llava.store.open(folder)

    return build


@pytest.fixture(scope="module")
def store(build) -> EncodedStore:
    return build()


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> PromptWriter:
    """Of a folder without any weights."""
    folder = tmp_path_factory.mktemp("small") / "model"
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return PromptWriter.of_checkpoint(folder)


def test_a_store_gives_what_the_model_gives_without_its_weights(store, prompts, inference, plain):
    stored = embed_from_store(store, prompts, TEXT, LANDSCAPE, str(PORTRAIT))
    live = embed_question(inference, TEXT, LANDSCAPE, PORTRAIT)
    assert stored.rows == (ROWS, ROWS)
    assert (stored.prompt, stored.ids, stored.words) == (live.prompt, live.ids, live.words)
    assert (stored.image_token_id, stored.begins_with_bos, stored.stop) == (518, True, None)
    for one, other in zip(stored.features, live.features, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)  # another batch shape
    with torch.no_grad():
        got = plain(**encoder_outputs(stored)).logits
    torch.testing.assert_close(got, own_logits(inference, TEXT, LANDSCAPE, PORTRAIT), rtol=1e-4, atol=1e-4)
    assert embed_from_store(store, prompts, TEXT, LANDSCAPE.read_bytes()).rows == (ROWS,)


def test_a_model_reads_its_store_and_opens_no_pixel(store, inference):
    stored = Inference(inference.tokenizer, inference.model, inference.image_processor, image_store=store)
    question = embed_question(stored, TEXT, LANDSCAPE)
    assert torch.equal(question.features[0], store[str(LANDSCAPE)].tokens)
    inference.model.set_compression("visionzip:17+3")
    try:
        with pytest.raises(StoreMismatchError, match="compression is visionzip"):
            embed_question(stored, TEXT, LANDSCAPE)
    finally:
        inference.model.set_compression(BUDGET)


def test_a_nested_store_serves_a_smaller_budget(build, prompts, inference):
    nested = build("--nested", compression="fastervlm:40")
    found = embed_from_store(nested, prompts, TEXT, LANDSCAPE, compression="fastervlm:12")
    assert found.rows == (12,)
    inference.model.set_compression("fastervlm:12")
    try:
        expected = embed_question(inference, TEXT, LANDSCAPE).features[0]
    finally:
        inference.model.set_compression(BUDGET)
    torch.testing.assert_close(found.features[0], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(StoreMismatchError, match="compression is fastervlm:40, asked for is fastervlm:41"):
        embed_from_store(nested, prompts, TEXT, LANDSCAPE, compression="fastervlm:41")


def test_stores_that_do_not_serve_are_refused(build, store, prompts, tmp_path):
    other = tmp_path / "other.png"
    Image.new("RGB", (20, 20), "red").save(other)
    with pytest.raises(StoreError, match=r"other.png is not in the store; add it with `llava store build`"):
        embed_from_store(store, prompts, TEXT, other)
    with pytest.raises(StoreError, match=r"a PIL image.* is not in the store"):
        embed_from_store(store, prompts, TEXT, Image.new("RGB", (20, 20)))
    with pytest.raises(StoreError, match=r"http://a.b/c.png is not in the store"):
        embed_from_store(store, prompts, TEXT, "http://a.b/c.png")
    with pytest.raises(StoreMismatchError, match=r"compression is visionzip:41.8.*asked for is visionzip:17.3"):
        embed_from_store(store, prompts, TEXT, LANDSCAPE, compression="visionzip:17+3")
    with pytest.raises(StoreMismatchError, match=r"compression is visionzip:41.8.*asked for is none"):
        embed_from_store(store, prompts, TEXT, LANDSCAPE, compression="none")
    with pytest.raises(StoreError, match=r"stage tower, .* --stage projected"):
        embed_from_store(build("--stage", "tower"), prompts, TEXT, LANDSCAPE)


def test_a_store_of_another_width_is_refused(store, oracle_dir):
    prompts = PromptWriter.of_checkpoint(oracle_dir / "tiny-llava-v1.5")
    with pytest.raises(StoreError, match=r"its rows have 128 numbers, and the language model reads \d+"):
        embed_from_store(store, prompts, TEXT, LANDSCAPE)


def test_prompts_of_a_folder_without_a_tokenizer_say_so(tmp_path):
    (tmp_path / "config.json").write_text((MODEL / "config.json").read_text())
    with pytest.raises(CheckpointError, match="has no whole tokenizer"):
        PromptWriter.of_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("compression", "reason"),
    [
        (f"{BUDGET}|fastv:33", r"behind \| works inside the language model, .* leave that part out"),
        ("divprune:40,positions=restore", "which no serving engine knows"),
    ],
)
def test_what_an_engine_cannot_run_is_refused(compression, reason, ask):
    with pytest.raises(ValueError, match=reason):
        ask(compression=compression)


def test_wrong_questions_are_refused(inference, tmp_path):
    with pytest.raises(ValueError, match="is a video, and engines are handed images only"):
        embed_question(inference, TEXT, Video("clip.mp4"))
    with pytest.raises(ValueError, match="the text has 2 <image> but 1 images are given"):
        embed_question(inference, "<image> and <image>?", LANDSCAPE)
    with pytest.raises(UnreadableImageError, match=r"none.png"):
        embed_question(inference, TEXT, tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"the prompt would be .* tokens long"):
        embed_question(inference, "word " * 3000, LANDSCAPE)


def test_rows_are_plain_tensors(ask, plain, inference):
    """Not inference tensors: who trains on them, or writes to them, can."""
    question = ask()
    plain(**encoder_outputs(question)).logits.sum().backward()
    plain.zero_grad(set_to_none=True)
    assert not any(rows.is_inference() for rows in (*question.features, prompt_rows(question, inference.model)))


def test_rows_that_do_not_fit_a_type_are_refused(ask, inference):
    question = ask()
    rounded = question.to(torch.bfloat16)
    assert rounded.features[0].dtype == prompt_rows(rounded, inference.model).dtype == torch.bfloat16
    question.features[0][0, 0] = 1e6
    with pytest.raises(ValueError, match=r"image 1: its rows reach 1e\+06, which float16 cannot hold"):
        question.to(torch.float16)


def test_the_language_model_alone_needs_a_new_folder(inference, text_folder):
    with pytest.raises(ValueError, match="is there already"):
        save_text_model(inference.model, inference.tokenizer, text_folder)
