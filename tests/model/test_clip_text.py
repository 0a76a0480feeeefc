"""CLIP's text tower from a second checkpoint: the joint space is transformers' own, and another CLIP is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig

from llava.inference import GenerationOptions, Inference, Question
from llava.model.checkpoints.files import CheckpointError
from llava.model.clip_text import ClipText
from llava.model.configuration import CompressionConfig
from llava.results.rows import question_marks

LONG = "What is this? " * 30
SHORT = "a cat"


@pytest.fixture(scope="module")
def model(oracle_dir):
    return Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu", compression=None).model


@pytest.fixture(scope="module")
def clip_folder(model, oracle_dir, tmp_path_factory) -> Path:
    """A CLIP with the model's vision tower, a text tower of 16 places and a tokenizer."""
    folder = tmp_path_factory.mktemp("clip")
    text = CLIPTextConfig(
        vocab_size=700,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=model.config.vision_config, projection_dim=12)
    clip = CLIPModel(config).eval()
    clip.vision_model.load_state_dict(model.model.vision_tower.state_dict(), strict=False)
    clip.save_pretrained(folder)
    for name in ("tokenizer.model", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"):
        if (oracle_dir / "tiny-llava-v1.5" / name).is_file():
            (folder / name).write_bytes((oracle_dir / "tiny-llava-v1.5" / name).read_bytes())
    return folder


def test_the_joint_space_is_transformers_own(model, clip_folder):
    reader, clip = ClipText(clip_folder, model.model.vision_tower), CLIPModel.from_pretrained(clip_folder).eval()
    patches = torch.randn(2, 9, model.config.vision_config.hidden_size, generator=torch.Generator().manual_seed(1))
    joint = reader.joint(patches, [SHORT, LONG])
    ids = reader._tokenizer(SHORT, return_tensors="pt").input_ids
    with torch.no_grad():
        text = clip.get_text_features(input_ids=ids)
        text = getattr(text, "pooler_output", text)
        image = clip.visual_projection(clip.vision_model.post_layernorm(patches))
    torch.testing.assert_close(joint.text[0, :1], text)
    torch.testing.assert_close(joint.image, image)
    assert joint.mask.sum(dim=1).tolist() == [1, -(-len(reader._tokenizer(LONG).input_ids) // 16)]


def test_another_clip_is_refused(model, clip_folder, tmp_path):
    clip = CLIPModel.from_pretrained(clip_folder)
    torch.nn.init.ones_(clip.vision_model.embeddings.patch_embedding.weight)
    clip.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"the values of embeddings[.]patch_embedding[.]weight differ"):
        ClipText(tmp_path, model.model.vision_tower)
    with pytest.raises(CheckpointError, match="model_type 'llava_llama' is none of"):
        model.use_clip_text(model.tokenizer_folder)


def test_the_fingerprint_tells_text_towers_and_tokenizers_apart(model, clip_folder, tmp_path):
    tower = model.model.vision_tower
    own = ClipText(clip_folder, tower).fingerprint
    assert ClipText(clip_folder, tower).fingerprint == own
    clip = CLIPModel.from_pretrained(clip_folder)
    with torch.no_grad():
        clip.text_model.final_layer_norm.weight.mul_(2)
    shutil.copytree(clip_folder, tmp_path / "other")
    clip.save_pretrained(tmp_path / "other")
    assert ClipText(tmp_path / "other", tower).fingerprint != own


def test_a_clip_without_a_tokenizer_is_refused(model, clip_folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(clip_folder / name, tmp_path / name)
    with pytest.raises(CheckpointError, match="its tokenizer knows no word"):
        ClipText(tmp_path, model.model.vision_tower)


def test_a_table_is_told_whether_clip_read_the_question(model, clip_folder):
    seam, budget = model.model, CompressionConfig("cdpruner", 4)
    assert (seam.is_text_free(budget), seam.is_multi_turn_safe(budget)) == (True, True)
    model.use_clip_text(clip_folder)
    try:
        assert (seam.is_text_free(budget), seam.is_multi_turn_safe(budget)) == (False, False)
        assert seam.is_multi_turn_safe(None) and seam.is_multi_turn_safe(CompressionConfig("visionzip", 4))
    finally:
        seam.clip_text = None
    assert question_marks([{"clip_text": "a", "text_free": False, "multi_turn_safe": False}]) == (
        ", with CLIP, not multi-turn safe"
    )
    assert question_marks([{}]) == ""  # of an older version


@pytest.mark.parametrize("name", ["tiny-llava-v1.5", "tiny-llava-v1.6-next"])
def test_a_program_asks_outside_of_inference_mode(oracle_dir, clip_folder, name):
    inference = Inference.load(oracle_dir / name, device="cpu", compression="mmtok:6")
    picture, options = oracle_dir / "images" / "square.png", GenerationOptions(max_new_tokens=3)
    questions = [Question("Which animal stands there?", (picture,)), Question("How many windows?", (picture, picture))]
    for budget in ("mmtok:6", "cdpruner:6"):
        inference.model.set_compression(budget)
        if budget == "cdpruner:6" and name == "tiny-llava-v1.5":
            inference.model.use_clip_text(clip_folder)
        together = {answer.index: answer.token_ids for answer in inference.ask(questions, options=options)}
        alone = [inference.ask_one(each.text, *each.images, options=options).token_ids for each in questions]
        assert [together[0], together[1]] == alone


@pytest.mark.parametrize(("budget", "is_used"), [("visionzip:54+10", False), (None, False), ("cdpruner:64", True)])
def test_a_clip_that_no_budget_reads_is_told(budget, is_used, clip_folder, oracle_dir, caplog):
    folder = oracle_dir / "tiny-llava-v1.5"
    model = Inference.load(folder, device="cpu", compression=budget, clip_text=clip_folder).model
    assert ("is not used: " in caplog.text) is not is_used
    assert model.model.ignores_clip([None, CompressionConfig.parse("visionzip:54+10")])
    assert not model.model.ignores_clip([None, CompressionConfig.parse("cdpruner:64")])
