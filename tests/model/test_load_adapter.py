"""`load_adapter` on our classes: adapters of any age, as plain transformers applies them, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration as Plain

from llava import LlavaForConditionalGeneration
from llava.small_files import CheckpointError
from tests.model.tiny import IMAGE_TOKEN, hf_llava, random_ids, random_pixels

FILE = "adapter_model.safetensors"
OLD_NAMES = {  # where the layers were before transformers 4.52, and in LLaVA's own classes
    "now": "model.language_model.layers.",
    "before 4.52": "language_model.model.layers.",
    "LLaVA's": "model.layers.",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    hf_llava(compression="visionzip:5+2").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    """As peft saves it with plain transformers of today."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM",
                             exclude_modules=r".*vision_tower.*")  # fmt: skip
    adapted = peft.get_peft_model(Plain.from_pretrained(base), config)
    for name, parameter in adapted.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(folder)
    return folder


def renamed(adapter: Path, folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    state = load_file(adapter / FILE)
    save_file({key.replace(OLD_NAMES["now"], OLD_NAMES[name]): value for key, value in state.items()}, folder / FILE)
    return folder


def logits(model) -> torch.Tensor:
    ids = torch.cat([torch.full((1, 16), IMAGE_TOKEN), random_ids(1, 8)], dim=1)
    with torch.no_grad():
        return model.eval()(input_ids=ids, pixel_values=random_pixels(1, 3, 28, 28)).logits


@pytest.mark.parametrize("name", OLD_NAMES)
def test_adapters_of_any_age(name, base, adapter, tmp_path):
    folder = renamed(adapter, tmp_path / "old", name)
    model = LlavaForConditionalGeneration.from_pretrained(base, compression=None)
    without = logits(model)
    info = model.load_adapter(folder)
    assert not info.missing_keys and not info.unexpected_keys
    plain = Plain.from_pretrained(base)
    plain.load_adapter(str(adapter))
    expected = logits(plain)
    assert (expected - without).abs().max() > 0.1
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_refused_and_leaves_the_model_as_it_was(base, adapter, tmp_path):
    folder = renamed(adapter, tmp_path / "other", "now")
    state = load_file(folder / FILE)
    save_file({name.replace("layers.1.", "layers.7."): value for name, value in state.items()}, folder / FILE)
    model = LlavaForConditionalGeneration.from_pretrained(base, compression=None)
    before = logits(model)
    with pytest.raises(CheckpointError, match=r"another model; missing \(4\).*unexpected \(4\): .*layers\.7"):
        model.load_adapter(folder)
    assert torch.equal(logits(model), before)


def test_another_compression_is_told(base, adapter, tmp_path, caplog):
    model = LlavaForConditionalGeneration.from_pretrained(base, compression="visionzip:3+2")
    model.load_adapter(adapter)
    assert "compression" not in caplog.text  # peft's says nothing
    model.save_pretrained(tmp_path / "ours")
    other = LlavaForConditionalGeneration.from_pretrained(base, compression=None)
    other.load_adapter(tmp_path / "ours")
    assert "trained under compression visionzip:3+2, and the model has none" in caplog.text


def test_dora_is_as_peft_applies_it(base, tmp_path):
    """Plain transformers loses its magnitudes, whose names peft's files shorten, and says so in a report only."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=r".*language_model.*q_proj", use_dora=True)
    adapted = peft.get_peft_model(Plain.from_pretrained(base), config)
    for name, parameter in adapted.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(tmp_path)
    model = LlavaForConditionalGeneration.from_pretrained(base, compression=None)
    model.load_adapter(tmp_path)
    expected = logits(peft.PeftModel.from_pretrained(Plain.from_pretrained(base), tmp_path))
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


def test_of_two_adapters_the_bad_one_is_blamed(base, adapter, tmp_path):
    folder = renamed(adapter, tmp_path / "other", "now")
    state = load_file(folder / FILE)
    save_file({name: value for name, value in state.items() if "layers.1." not in name}, folder / FILE)
    model = LlavaForConditionalGeneration.from_pretrained(base, compression=None)
    model.load_adapter(adapter, "first")
    with pytest.raises(CheckpointError, match=r"missing \(4\): .*layers\.1") as raised:
        model.load_adapter(folder, "second")
    assert ".first." not in str(raised.value) and "layers.0" not in str(raised.value)


@pytest.mark.parametrize("pattern", ["(", "(([a-z_.0-9]+)+)+X"])
def test_patterns_are_refused_before_they_are_tried(pattern, base, adapter, tmp_path):
    folder = renamed(adapter, tmp_path / "other", "now")
    content = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**content, "alpha_pattern": {pattern: 4}}))
    model = LlavaForConditionalGeneration.from_pretrained(base, compression=None)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: alpha_pattern"):
        model.load_adapter(folder)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: alpha_pattern"):
        LlavaForConditionalGeneration.from_pretrained(folder)
