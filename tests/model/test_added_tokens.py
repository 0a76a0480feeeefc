"""Tokens that a user adds, as for grounding or tools, never collide with the image token."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from llava import AutoLlava, AutoLlavaProcessor, LlavaForConditionalGeneration, LlavaProcessor, load_pretrained_model
from llava.hub.export import export
from llava.inference import Inference
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import build_from_parts
from llava.train.train import train
from tests.model.folders import TINY, image
from tests.model.test_checkpoints import edit_config

NEW = ["<box>", "</box>"]
PROMPT = "USER: <image>\nWhere is it? ASSISTANT: <box>1 2</box>"


def with_new_tokens(folder: Path):
    """A model as such users make it, and what it makes of the prompt."""
    tokenizer, model, processor, _ = load_pretrained_model(folder, device="cpu", compression="visionzip:54+10")
    tokenizer.add_tokens(NEW)
    model.resize_token_embeddings(len(tokenizer))
    return tokenizer, model, processor


def logits_of(tokenizer, model, processor) -> torch.Tensor:
    """By LLaVA's convention; rows of text only, which no added token changes."""
    ids = tokenizer_image_token(PROMPT, tokenizer, return_tensors="pt")[None]
    pixels = process_images([image()], processor, model.config)
    with torch.no_grad():
        return model(ids, images=pixels, image_sizes=[image().size]).logits


def ids_by_processor(made) -> list[int]:
    return made(images=image(), text=PROMPT).input_ids[0]


def check(folder: Path, expected: torch.Tensor) -> None:
    """A saved checkpoint knows the tokens, counts its image tokens right, and answers as before."""
    tokenizer, model, image_processor, _ = load_pretrained_model(folder, device="cpu")
    boxes = tokenizer.convert_tokens_to_ids(NEW)
    assert model.config.image_token_id not in boxes and max(boxes) < model.config.vocab_size
    torch.testing.assert_close(logits_of(tokenizer, model, image_processor)[..., : max(boxes) + 1], expected)
    for processor in (LlavaProcessor.for_model(model, tokenizer), LlavaProcessor.from_pretrained(folder)):
        ids = ids_by_processor(processor)
        assert ids.count(model.config.image_token_id) == 64 and [ids.count(box) for box in boxes] == [1, 1]
        inputs = processor(images=image(), text=PROMPT, return_tensors="pt")
        with torch.no_grad():
            again = model(**inputs).logits[..., : max(boxes) + 1]
        torch.testing.assert_close(again, expected, atol=1e-4, rtol=1e-4)


def test_resizing_moves_the_image_token(oracle_dir):
    tokenizer, model, _ = with_new_tokens(oracle_dir / "tiny-llava-v1.5")
    assert tokenizer.convert_tokens_to_ids(NEW) == [700, 701] and model.config.image_token_id == 702
    model.resize_token_embeddings(None)
    assert model.config.image_token_id == 702
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    assert (model.config.vocab_size, model.config.image_token_id) == (704, 704)
    model.resize_token_embeddings(700)
    assert model.config.image_token_id == 700


def test_an_image_token_with_a_row_stays_where_it_is():
    tokenizer, model, _, _ = load_pretrained_model("playground/tiny/model", device="cpu")
    tokenizer.add_tokens(NEW)
    model.resize_token_embeddings(len(tokenizer))
    assert model.config.image_token_id == tokenizer.convert_tokens_to_ids("<image>") == 518


def test_a_processor_refuses_tokens_without_rows(oracle_dir):
    tokenizer, model, _, _ = load_pretrained_model(oracle_dir / "tiny-llava-v1.5", device="cpu")
    tokenizer.add_tokens(NEW)
    with pytest.raises(ValueError, match=r"700 of the model is '<box>'.*resize_token_embeddings"):
        LlavaProcessor.for_model(model, tokenizer)


def test_saved_trained_and_exported(oracle_dir, tmp_path):
    tokenizer, model, image_processor = with_new_tokens(oracle_dir / "tiny-llava-v1.5")
    before = model.get_input_embeddings().weight[700:].clone()
    inputs = LlavaProcessor.for_model(model, tokenizer)(images=image(), text=PROMPT, return_tensors="pt")
    labels = inputs.input_ids.masked_fill(inputs.input_ids == model.config.image_token_id, -100)
    model.train().requires_grad_(False)
    model.get_input_embeddings().weight.requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(**inputs, labels=labels).loss.backward()
    optimizer.step()
    assert not torch.equal(before, model.get_input_embeddings().weight[700:])
    expected = logits_of(tokenizer, model.eval(), image_processor)[..., :702]

    saved = tmp_path / "saved"
    for part in (model, tokenizer, image_processor):
        part.save_pretrained(saved)
    shutil.copyfile(oracle_dir / "tiny-llava-v1.5" / "tokenizer.model", saved / "tokenizer.model")
    check(saved, expected)
    for to in ("hf", "llava"):
        export(saved, to, tmp_path / to, progress=False, vision_tower=str(oracle_dir / "tiny-clip-vit-l14-336"))
        check(tmp_path / to, expected)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "hf")
    processor = AutoProcessor.from_pretrained(tmp_path / "hf", backend="pil")
    alone = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf", compression=None)
    inputs = processor(images=image(), text=PROMPT, return_tensors="pt")
    assert (inputs.input_ids == plain.config.image_token_id).sum() == 576
    with torch.no_grad():
        torch.testing.assert_close(plain(**inputs).logits, alone(**inputs).logits, atol=1e-4, rtol=1e-4)


def test_a_run_begins_with_them(oracle_dir, tmp_path):
    """Training of this package, on a base that a user's script has given tokens."""
    tokenizer, model, image_processor = with_new_tokens(oracle_dir / "tiny-llava-v1.5")
    for part in (model, tokenizer, image_processor):
        part.save_pretrained(tmp_path / "base")
    common = ["--image_folder", oracle_dir / "images", "--data_path", oracle_dir / "train_tiny.json", "--version", "v1"]
    where = ["--model_name_or_path", tmp_path / "base", "--output_dir", tmp_path / "out", "--stage", "finetune"]
    short = ["--max_steps", 1, "--use_cpu", True, "--report_to", "none", "--save_strategy", "no"]
    trainer = train([str(word) for word in (*where, *common, *short)])
    expected = logits_of(tokenizer, trainer.model.float().eval(), image_processor)[..., :702]
    check(tmp_path / "out", expected)


def test_tokens_that_a_config_asks_for(oracle_dir, tmp_path):
    """LLaVA-1.0's kind: their rows come at loading, by the same rule, and LLaVA's own way to ask for them."""
    folder = Path(shutil.copytree(oracle_dir / "tiny-llava-v1.5", tmp_path / "old"))
    edit_config(folder, mm_use_im_start_end=True)
    tokenizer, model, _, _ = load_pretrained_model(folder, device="cpu")
    assert (len(tokenizer), model.config.vocab_size, model.config.image_token_id) == (702, 702, 702)
    tokenizer, model, _, _ = load_pretrained_model(oracle_dir / "tiny-llava-v1.5", device="cpu")
    model.config.mm_use_im_start_end = True
    model.initialize_vision_tokenizer(model.config, tokenizer)
    assert tokenizer.convert_tokens_to_ids(["<im_start>", "<im_end>"]) == [700, 701]
    assert model.config.image_token_id == 702


def test_a_language_model_whose_tokenizer_has_more_tokens_than_rows(oracle_dir, tmp_path):
    folder = Path(shutil.copytree(oracle_dir / "origtrain" / "vicuna-tiny", tmp_path / "llm"))
    tokenizer, _, _ = build_from_parts(folder, oracle_dir / "tiny-clip-vit-l14-336")
    tokenizer.add_tokens(NEW)
    tokenizer.save_pretrained(folder)
    tokenizer, model, _ = build_from_parts(folder, oracle_dir / "tiny-clip-vit-l14-336")
    assert len(tokenizer) == model.config.vocab_size == model.config.image_token_id == 702


def test_after_resizing_a_processor_needs_the_tokenizer_that_grew(oracle_dir, tmp_path):
    model = AutoLlava.from_pretrained(oracle_dir / "tiny-llava-v1.5", compression="visionzip:54+10")
    processor = AutoLlavaProcessor.for_model(model)
    tokenizer = processor.tokenizer
    tokenizer.add_tokens(["<box>", "</box>"])
    with pytest.raises(ValueError, match=r"for_model\(model, tokenizer=tokenizer\)"):
        processor.save_pretrained(tmp_path / "stale")
    model.resize_token_embeddings(len(tokenizer))
    with pytest.raises(ValueError, match="its token embedding was resized"):
        AutoLlavaProcessor.for_model(model)
    anew = AutoLlavaProcessor.for_model(model, tokenizer=tokenizer)
    anew.save_pretrained(tmp_path / "grown")
    assert len(AutoLlavaProcessor.from_pretrained(tmp_path / "grown").tokenizer) == 702


def test_a_token_without_a_row_is_named():
    """At every door that takes ids, before an index fails in the embedding."""
    tokenizer, model, processor, _ = load_pretrained_model(TINY, device="cpu")
    tokenizer.add_tokens(NEW)
    ids = tokenizer_image_token(PROMPT, tokenizer, return_tensors="pt")[None]
    pixels = process_images([image()], processor, model.config)
    for door in (
        lambda: Inference(tokenizer, model, processor).ask_one("Where is <box>?", image()),
        lambda: model.generate(ids, images=pixels, max_new_tokens=1),
        lambda: model(ids, images=pixels),
        lambda: model.generate(tokenizer("a <box>", return_tensors="pt").input_ids, max_new_tokens=1),
    ):
        with pytest.raises(ValueError, match=r"token id (519|520) has no embedding.*519 rows.*resize_token_embeddings"):
            door()
    model.resize_token_embeddings(len(tokenizer))
    assert model.generate(ids, images=pixels, max_new_tokens=1).shape[0] == 1
