"""The ways in: either kind of model by one name, where a model comes from, and what wrong arguments are told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch

from llava import (
    AutoLlava,
    AutoLlavaProcessor,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    load_pretrained_model,
)
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import build_from_parts
from llava.model.multimodal_projector import save_projector
from llava.small_files import CheckpointError
from tests.model.folders import KINDS, TINY, image, save_transformers_folder
from tests.model.test_checkpoints import edit_config

MODELS = {"llava": LlavaForConditionalGeneration, "llava_next": LlavaNextForConditionalGeneration}
PROCESSORS = {"llava": LlavaProcessor, "llava_next": LlavaNextProcessor}
PROMPT = "USER: <image>\nWhat is it? ASSISTANT:"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {kind: save_transformers_folder(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_one_door_for_either_kind(kind, folders, tmp_path):
    """Model and processor agree on the budget without a third call, and the answer is the usual doors'."""
    model = AutoLlava.from_pretrained(folders[kind], compression="visionzip:5+2", dtype="float32")
    assert type(model) is MODELS[kind] and str(model.compression) == "visionzip:5+2"
    processor = AutoLlavaProcessor.for_model(model)
    assert type(processor) is PROCESSORS[kind] and processor.compression == model.compression
    same = AutoLlavaProcessor.from_pretrained(folders[kind], compression="visionzip:5+2")
    assert type(same) is PROCESSORS[kind] and same.compression == model.compression
    inputs = processor(images=image(), text=PROMPT, return_tensors="pt")
    assert torch.equal(inputs.input_ids, same(images=image(), text=PROMPT, return_tensors="pt").input_ids)
    model.generate(**inputs, max_new_tokens=2)
    processor.save_pretrained(tmp_path / "alone")
    assert type(AutoLlavaProcessor.from_pretrained(tmp_path / "alone")) is PROCESSORS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_wrong_class_names_the_right_one(kind, folders):
    other = next(name for name in KINDS if name != kind)
    with pytest.raises(CheckpointError, match=f"which {MODELS[kind].__name__} loads.*AutoLlava"):
        MODELS[other].from_pretrained(folders[kind])
    with pytest.raises(CheckpointError, match=f"takes a {PROCESSORS[kind].__name__}"):
        PROCESSORS[other].from_pretrained(folders[kind])


def test_llavas_format_and_a_projector_open_too(oracle_dir, tmp_path):
    base = oracle_dir / "tiny-llava-v1.6-next"
    model = AutoLlava.from_pretrained(base, compression="visionzip:54+10")
    assert type(model) is LlavaNextForConditionalGeneration
    save_projector(model, tmp_path / "tuned", base_model=base)
    tuned = AutoLlava.from_pretrained(tmp_path / "tuned")
    processor = AutoLlavaProcessor.for_model(tuned)  # tokenizer and image processor are the base's
    assert str(processor.compression) == "visionzip:54+10"


def test_keywords_are_honoured_or_refused(folders, caplog):
    folder = folders["llava"]
    assert str(LlavaProcessor.from_pretrained(folder, compression="visionzip:3+2").compression) == "visionzip:3+2"
    assert LlavaProcessor.from_pretrained(folder, compression=None).compression is None
    with pytest.raises(ValueError, match=r"dominant=500 is outside"):
        LlavaProcessor.from_pretrained(folder, compression="visionzip:500+1")
    for door in (LlavaProcessor, AutoLlavaProcessor):
        with pytest.raises(TypeError, match="no use_fast, padding_side: "):
            door.from_pretrained(folder, use_fast=True, padding_side="right")
    for door in (LlavaForConditionalGeneration, AutoLlava):
        with pytest.raises(TypeError, match="unexpected keyword argument 'compresion'"):
            door.from_pretrained(folder, compresion="visionzip:5+2")
    AutoLlava.from_pretrained(folder, trust_remote_code=True, revision="main")
    assert "trust_remote_code=True has no effect" in caplog.text


def test_dtype_has_two_names(folders, oracle_dir):
    for name in ("dtype", "torch_dtype"):
        for value in ("bfloat16", torch.bfloat16):
            assert load_pretrained_model(folders["llava"], device="cpu", **{name: value})[1].dtype == torch.bfloat16
        assert AutoLlava.from_pretrained(folders["llava"], **{name: "bfloat16"}).dtype == torch.bfloat16
    parts = oracle_dir / "origtrain" / "vicuna-tiny", oracle_dir / "tiny-clip-vit-l14-336"
    assert build_from_parts(*parts, dtype=torch.bfloat16)[1].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="two names of one thing"):
        load_pretrained_model(folders["llava"], device="cpu", dtype="float16", torch_dtype="bfloat16")


# ----- Where a model comes from ------------------------------------------------


def test_a_model_knows_its_place_and_adapters_their_base(oracle_dir, tmp_path):
    place = str(oracle_dir / "tiny-llava-v1.5")
    _, loaded, _, _ = load_pretrained_model(place, device="cpu")
    for model in (loaded, LlavaForConditionalGeneration.from_pretrained(place), AutoLlava.from_pretrained(place)):
        assert model.name_or_path == model.config._name_or_path == place
    adapted = peft.get_peft_model(loaded, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "adapter")
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == place
    again = load_pretrained_model(tmp_path / "adapter", device="cpu")[1]  # names its base, so nothing need be said
    assert again.name_or_path == str(tmp_path / "adapter")
    save_projector(again, tmp_path / "projector", base_model="me/base")
    assert "_name_or_path" not in json.loads((tmp_path / "projector" / "config.json").read_text())
    loaded.save_pretrained(tmp_path / "saved")
    assert place not in (tmp_path / "saved" / "config.json").read_text().replace(f"{place}/", "")


def test_an_adapter_brings_its_compression_or_loading_warns(oracle_dir, tmp_path, caplog):
    model = LlavaForConditionalGeneration.from_pretrained(oracle_dir / "tiny-llava-v1.5", compression="visionzip:54+10")
    model.add_adapter(peft.LoraConfig(r=2, target_modules=r".*language_model.*q_proj"))
    model.save_pretrained(tmp_path / "ours")
    _, again, _, _ = load_pretrained_model(tmp_path / "ours", device="cpu")
    assert str(again.compression) == "visionzip:54+10" and "which compression" not in caplog.text
    bare = Path(shutil.copytree(tmp_path / "ours", tmp_path / "bare"))
    (bare / "config.json").unlink()  # as peft's own save_pretrained leaves it
    for door in (lambda: load_pretrained_model(bare, device="cpu"), lambda: AutoLlava.from_pretrained(bare)):
        caplog.clear()
        door()
        assert f"{bare} does not say which compression it was trained under; its base's is used (none)" in caplog.text
    caplog.clear()
    assert str(AutoLlava.from_pretrained(bare, compression="visionzip:54+10").compression) == "visionzip:54+10"
    assert "which compression" not in caplog.text


# ----- Messages ----------------------------------------------------------------


@pytest.mark.parametrize("value", ["visionzip:500+1", "magic:5", "visionzip", {"dominants": 5}])
def test_a_wrong_argument_is_no_fault_of_config_json(value, folders):
    for door in (lambda **options: load_pretrained_model(folders["llava"], device="cpu", **options),
                 lambda **options: AutoLlava.from_pretrained(folders["llava"], **options)):  # fmt: skip
        with pytest.raises(ValueError, match="compression") as raised:
            door(compression=value)
        assert "config.json" not in str(raised.value)


def test_what_is_missing_or_wrong_is_named(tmp_path):
    folder = Path(shutil.copytree(TINY, tmp_path / "model"))
    edit_config(folder, image_aspect_ratio="wide")
    with pytest.raises(CheckpointError, match="image_aspect_ratio='wide' is unknown") as raised:
        load_pretrained_model(folder, device="cpu")
    assert "compression" not in str(raised.value)
    shutil.copyfile(TINY / "config.json", folder / "config.json")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no tokenizer, neither tokenizer\.json"):
        load_pretrained_model(folder, device="cpu")
    shutil.copyfile(TINY / "tokenizer.json", folder / "tokenizer.json")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no preprocessor_config\.json"):
        load_pretrained_model(folder, device="cpu")


# ----- LLaVA's internals -------------------------------------------------------


@pytest.fixture(scope="module")
def llava(oracle_dir):
    return load_pretrained_model(oracle_dir / "tiny-llava-v1.5", device="cpu", compression="visionzip:54+10")


def test_encode_images_of_a_batch_is_a_tensor(llava):
    _, model, _, _ = llava
    pixels = torch.zeros(2, 3, 336, 336)
    features = model.encode_images(pixels)
    assert isinstance(features, torch.Tensor) and features.shape == (2, 64, 64)
    listed = model.encode_images([pixels[0], pixels[1]])
    assert isinstance(listed, list) and torch.equal(torch.stack(listed), features)


@pytest.mark.parametrize("with_labels", [False, True])
def test_prepared_inputs_give_the_same_logits(with_labels, llava):
    tokenizer, model, processor, _ = llava
    ids = tokenizer_image_token(PROMPT, tokenizer, return_tensors="pt")[None].repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    pixels = process_images([image(), image("portrait")], processor, model.config)
    labels = ids if with_labels else None
    none, positions, opened, cache, embeds, targets = model.prepare_inputs_labels_for_multimodal(
        ids, None, mask, None, labels, pixels
    )
    assert (none, positions, cache) == (None, None, None) and opened.dtype == mask.dtype
    assert embeds.shape[:2] == opened.shape == (2, ids.shape[1] + 63) and opened[1, -2:].tolist() == [0, 0]
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, images=pixels, labels=labels)
        found = model(inputs_embeds=embeds, attention_mask=opened, labels=targets)
    seen = opened.bool()
    torch.testing.assert_close(found.logits[seen], expected.logits[seen], atol=1e-5, rtol=1e-5)
    if with_labels:
        assert targets.shape == opened.shape and (targets == -100).sum() >= 128
        torch.testing.assert_close(found.loss, expected.loss)
    step = model.prepare_inputs_labels_for_multimodal(ids[:, :1], None, mask, "cache", None, pixels)
    assert step[0] is not None and step[3] == "cache" and step[4] is None
    assert model.prepare_inputs_labels_for_multimodal(ids, None, mask, None, labels, None)[4] is None


def test_names_of_llavas_model(llava):
    _, model, _, _ = llava
    inner = model.get_model()
    assert inner.embed_tokens is model.get_input_embeddings() and len(inner.layers) == 2
    assert inner.norm is model.model.language_model.norm
    assert not any(name.startswith("model.embed_tokens") for name in model.state_dict())


LOADS = """
from llava import load_pretrained_model
from llava.train.adapters import add_adapters

_, model, _, _ = load_pretrained_model({folder!r}, device="cpu", {options})
add_adapters(model, r=2, alpha=4)
"""


@pytest.mark.slow
def test_loading_is_quiet(oracle_dir):
    """Nothing of other libraries but their progress bar, quantised and with adapters."""
    program = LOADS.format(folder=str(oracle_dir / "tiny-llava-v1.5"), options="load_4bit=True")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines() + done.stderr.splitlines()
    assert [line for line in lines if line and "Loading weights" not in line] == []
