"""Checkpoints that are quantised on disk: loaded as plain transformers loads them, compressed too; else refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import BitsAndBytesConfig, LlamaConfig, LlavaConfig
from transformers import LlavaForConditionalGeneration as Plain

from llava import LlavaForConditionalGeneration, load_pretrained_model
from llava.hub.export import export
from llava.inference import Inference
from llava.model.checkpoints import quantised
from llava.model.quantization import unpack_projector
from llava.small_files import CheckpointError
from llava.train.train import train
from tests.model.folders import TINY, image
from tests.model.test_checkpoints import edit_config
from tests.model.tiny import IMAGE_TOKEN, TEXT, random_ids, random_pixels, sharpen, vision_config

KEPT = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
WAYS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4-parts": {"load_in_4bit": True, "bnb_4bit_use_double_quant": True, "llm_int8_skip_modules": KEPT},
    "int8": {"load_in_8bit": True},
}
INPUTS = {
    "input_ids": torch.cat([torch.full((1, 16), IMAGE_TOKEN), random_ids(1, 8)], dim=1),
    "pixel_values": random_pixels(1, 3, 28, 28),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A model of widths that bitsandbytes can pack, as plain transformers saves it quantised."""
    root = tmp_path_factory.mktemp("quantised")
    torch.manual_seed(0)
    text = LlamaConfig(**{**TEXT, "hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 4})
    vision = vision_config(hidden_size=64, intermediate_size=128)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN, image_seq_length=16)
    sharpen(Plain(config)).save_pretrained(root / "whole")
    for name, options in WAYS.items():
        quantisation = BitsAndBytesConfig(**options)
        Plain.from_pretrained(root / "whole", quantization_config=quantisation).save_pretrained(root / name)
    return {name: root / name for name in ("whole", *WAYS)}


@pytest.mark.parametrize("way", WAYS)
def test_as_plain_transformers_loads_it(way, folders):
    ours, plain = LlavaForConditionalGeneration.from_pretrained(folders[way]), Plain.from_pretrained(folders[way])
    assert type(ours.model.language_model.layers[0].mlp.up_proj) is type(
        plain.model.language_model.layers[0].mlp.up_proj
    )
    with torch.no_grad():
        torch.testing.assert_close(ours(**INPUTS).logits, plain(**INPUTS).logits, atol=1e-4, rtol=1e-4)
    ours.set_compression("visionzip:5+2")
    ids = torch.tensor([[1, 30, -200, 40]])
    assert ours.generate(ids, images=random_pixels(1, 3, 28, 28), max_new_tokens=3).shape[0] == 1


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """The embedded model, tokenizer and all, in 8 bits."""
    folder = tmp_path_factory.mktemp("tiny")
    for file in TINY.iterdir():
        if file.suffix == ".json" and file.name != "config.json":
            (folder / file.name).write_bytes(file.read_bytes())
    quantisation = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=KEPT)  # its widths are odd for 4 bits
    Plain.from_pretrained(TINY, quantization_config=quantisation, dtype=torch.float32).save_pretrained(folder)
    return folder


def test_it_answers_and_its_projector_can_be_tuned(tiny, oracle_dir, tmp_path):
    asked = Inference.load(tiny, compression="visionzip:41+8", device="cpu")
    assert asked.ask_one("Which digit is in the northwest?", image()).text
    flags = {"model_name_or_path": tiny, "stage": "projector", "compression": "visionzip:41+8", "max_steps": 1}
    flags |= {"data_path": oracle_dir / "train_tiny.json", "image_folder": oracle_dir / "images", "version": "v1"}
    flags |= {"output_dir": tmp_path / "out", "use_cpu": True, "report_to": "none", "save_strategy": "no"}
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    train(words)
    assert (tmp_path / "out" / "mm_projector.safetensors").is_file()
    tuned = Inference.load(tmp_path / "out", tiny, device="cpu")
    assert tuned.ask_one("Which digit is in the northwest?", image()).text
    with pytest.raises(ValueError, match="the checkpoint is quantised, and stage finetune would train"):
        train([word if word != "projector" else "finetune" for word in words])


@pytest.mark.parametrize("way", ["nf4", "int8"])
def test_a_quantised_projector_is_unpacked_for_training(way, folders):
    model = LlavaForConditionalGeneration.from_pretrained(folders[way])
    unpack_projector(model)
    projector = model.model.multi_modal_projector
    assert all(parameter.is_floating_point() for parameter in projector.parameters())
    plain = Plain.from_pretrained(folders[way])
    with torch.no_grad():
        expected = plain.model.multi_modal_projector(torch.ones(1, 16, 64))
        found = projector(torch.ones(1, 16, 64))
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_what_cannot_be_done_says_why(folders, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="a quantised model is not exported; export the model it was made of"):
        export(folders["nf4"], "hf", tmp_path / "out", progress=False)
    monkeypatch.setattr(quantised, "import_bitsandbytes", lambda: False)
    with pytest.raises(CheckpointError, match=r"bitsandbytes, which cannot be imported here: .*load_4bit"):
        LlavaForConditionalGeneration.from_pretrained(folders["nf4"])
    edit_config(folders["int8"], quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(CheckpointError, match="quantization_config: 'gptq' is not loaded here; load the model that it"):
        LlavaForConditionalGeneration.from_pretrained(folders["int8"])


def test_quantising_again_is_refused(folders, tmp_path):
    folder = Path(shutil.copytree(folders["nf4"], tmp_path / "whole"))
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(TINY / name, folder)
    again = BitsAndBytesConfig(load_in_8bit=True)
    for door in (
        lambda: load_pretrained_model(folder, load_4bit=True, device="cpu"),
        lambda: LlavaForConditionalGeneration.from_pretrained(folder, quantization_config=again),
    ):
        with pytest.raises(CheckpointError, match=r"quantization_config.*quantised already.*load_4bit"):
            door()
