"""A LLaVA-format checkpoint whose head is its embedding, and which has no lm_head in its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from llava.hub.export import export
from llava.model.builder import load_pretrained_model
from llava.model.checkpoints.files import CheckpointError
from llava.train.train import train
from tests.model.test_checkpoints import edit_config

HEAD = "lm_head.weight"
IDS = torch.tensor([[5, 300, 699, 17, 3]])


@pytest.fixture(scope="module")
def tied(oracle_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tied") / "llava"
    shutil.copytree(oracle_dir / "tiny-llava-v1.5", folder)
    state = load_file(folder / "model.safetensors")
    del state[HEAD]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    edit_config(folder, tie_word_embeddings=True)
    return folder


@torch.no_grad()
def logits(folder: Path, rows: int = 700) -> torch.Tensor:
    model = load_pretrained_model(folder, device="cpu")[1]
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return model(IDS).logits[..., :rows]


def test_it_is_loaded_saved_and_exported(tied, oracle_dir, tmp_path):
    expected = logits(tied)
    tokenizer, model, image_processor, _ = load_pretrained_model(tied, device="cpu")
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        last = model.model(input_ids=IDS, return_dict=True).last_hidden_state
    torch.testing.assert_close(last @ embedding.T, expected)

    saved = tmp_path / "saved"
    for part in (model, tokenizer, image_processor):
        part.save_pretrained(saved)
    shutil.copyfile(tied / "tokenizer.model", saved / "tokenizer.model")
    for source in (tied, saved):
        for to in ("hf", "llava"):
            made = tmp_path / f"{source.name}-{to}"
            export(source, to, made, progress=False, vision_tower=str(oracle_dir / "tiny-clip-vit-l14-336"))
            assert not any(name.endswith(HEAD) for name in load_file(made / "model.safetensors"))
            assert json.loads((made / "config.json").read_text())["tie_word_embeddings"] is True
            assert torch.equal(logits(made), expected)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "llava-hf")
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=IDS).logits[..., :700], expected)


@pytest.mark.parametrize("stage", ["projector", "lora", "finetune"])
def test_it_is_trained(stage, tied, oracle_dir, tmp_path):
    data = ["--image_folder", oracle_dir / "images", "--data_path", oracle_dir / "train_tiny.json"]
    where = ["--model_name_or_path", tied, "--output_dir", tmp_path, "--stage", stage, "--learning_rate", "1e-3"]
    short = ["--max_steps", 2, "--use_cpu", True, "--report_to", "none", "--save_strategy", "no"]
    model = train([str(word) for word in (*where, *data, *short)]).model.float().eval()
    with torch.no_grad():
        expected = model(IDS).logits
    torch.testing.assert_close(logits(tmp_path), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(tied), expected) == (stage == "projector")


def test_without_the_entry_the_head_is_missing(tied, tmp_path):
    folder = Path(shutil.copytree(tied, tmp_path / "untied"))
    edit_config(folder, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"missing tensors \(1\): lm_head\.weight"):
        load_pretrained_model(folder, device="cpu")
