"""Adapters of every origin come back as the merged model; those that cannot are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from llava.model.builder import build_from_parts, instantiate, load_pretrained_model
from llava.model.checkpoints.files import CheckpointError
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.multimodal_projector import save_projector
from llava.model.quantization import bitsandbytes_config
from llava.train.adapters import add_adapters, save_adapter
from tests.model.test_checkpoints import edit_config
from tests.model.tiny import IMAGE_TOKEN, TEXT, hf_llava, hf_llava_next, random_ids, sharpen, vision_config

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.tensor([[1, 30, -200, 40, 50]])


def adapt(model, **options):
    """The model as peft adapts it, its adapters no longer zero."""
    torch.manual_seed(0)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": LINEAR, "task_type": "CAUSAL_LM"} | options)
    adapted = peft.get_peft_model(model, config)
    fill(adapted)
    return adapted


def fill(model) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.1)


def rename_tensors(folder: Path, rename, file: str = "adapter_model.safetensors") -> None:
    state = load_file(folder / file)
    save_file({rename(name): tensor for name, tensor in state.items()}, folder / file)


@pytest.fixture(scope="module")
def vicuna(oracle_dir) -> Path:
    return oracle_dir / "origtrain" / "vicuna-tiny"


@pytest.fixture(scope="module")
def projector(oracle_dir) -> dict[str, torch.Tensor]:
    state = load_file(oracle_dir / "tiny-llava-v1.5" / "model.safetensors")
    return {name: tensor + 0.1 for name, tensor in state.items() if "mm_projector" in name}


@pytest.fixture
def of_llava(oracle_dir, vicuna, projector, tmp_path):
    """Makes a folder as LLaVA's LoRA training leaves it, and gives it with the language model that peft merged."""

    def make(prefix="base_model.model.", **options):
        folder = tmp_path / "llava-lora"
        adapted = adapt(AutoModelForCausalLM.from_pretrained(vicuna), **options)
        adapted.save_pretrained(folder)
        shutil.copy(oracle_dir / "tiny-llava-v1.5" / "config.json", folder)
        others = {prefix + name: tensor for name, tensor in projector.items()}
        torch.save(others, folder / "non_lora_trainables.bin")
        return folder, adapted.merge_and_unload()

    return make


def logits(model, ids=IDS):
    pixels = torch.randn(1, 3, 336, 336, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(ids, images=pixels).logits


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"layers.1.self_attn.q_proj": 2, "up_proj": 3}, "alpha_pattern": {"v_proj": 20}},
    ],
    ids=["plain", "rslora", "patterns"],
)
def test_llavas_adapters_on_a_language_model(options, of_llava, oracle_dir, vicuna, projector, tmp_path):
    folder, by_peft = of_llava(**options)
    _, model, _, _ = load_pretrained_model(folder, vicuna, device="cpu")
    ours = model.model.language_model.state_dict()
    for name, tensor in by_peft.model.state_dict().items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=0, msg=name)

    shutil.copytree(vicuna, tmp_path / "merged")
    by_peft.save_pretrained(tmp_path / "merged")
    save_file(projector, tmp_path / "mm_projector.safetensors")
    by_hand = build_from_parts(
        tmp_path / "merged",
        oracle_dir / "tiny-clip-vit-l14-336",
        pretrain_mm_mlp_adapter=tmp_path / "mm_projector.safetensors",
    )[1]
    torch.testing.assert_close(logits(model), logits(by_hand), atol=1e-5, rtol=0)


def to_bin(folder: Path) -> None:
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


@pytest.mark.parametrize(
    "change",
    [
        to_bin,
        lambda folder: rename_tensors(folder, lambda name: name.replace(".weight", ".default.weight")),
        lambda folder: rename_tensors(folder, lambda name: f"base_model.model.{name}"),
    ],
    ids=["bin", "adapter's name", "wrapped twice"],
)
def test_llavas_files_of_every_age(change, of_llava, vicuna):
    folder, by_peft = of_llava(prefix="base_model.model.base_model.model.")
    change(folder)
    model = load_pretrained_model(folder, device="cpu")[1]  # the base is named by the adapter
    expected = by_peft.model.state_dict()
    ours = model.model.language_model.state_dict()
    assert all(torch.allclose(ours[name], tensor, atol=1e-6) for name, tensor in expected.items())


def test_llavas_adapters_on_a_llava(of_llava, oracle_dir, projector):
    """As its task tuning leaves them: the base has a projector, the folder a better one."""
    folder, _ = of_llava()
    base = oracle_dir / "tiny-llava-v1.5"
    model = load_pretrained_model(folder, base, device="cpu")[1]
    before = load_pretrained_model(base, device="cpu")[1].state_dict()
    adapter = load_file(folder / "adapter_model.safetensors")
    layer = "model.layers.1.mlp.down_proj."
    a, b = (adapter[f"base_model.model.{layer}lora_{factor}.weight"] for factor in "AB")
    name = "model.language_model.layers.1.mlp.down_proj.weight"
    torch.testing.assert_close(model.state_dict()[name], before[name] + 6 / 4 * b @ a, atol=1e-6, rtol=0)
    assert torch.equal(model.model.mm_projector.linear_1.weight, projector["model.mm_projector.0.weight"])


def test_peft_adapters_on_a_llava_need_no_config(oracle_dir, tmp_path, caplog):
    base = oracle_dir / "tiny-llava-v1.5"
    model = load_pretrained_model(base, device="cpu")[1]
    adapted = adapt(model, target_modules=["q_proj", "v_proj"])  # the tower's layers have these names too
    expected = logits(adapted)
    adapted.save_pretrained(tmp_path / "peft", save_embedding_layers=False)  # else peft looks on the Hub
    assert not (tmp_path / "peft" / "config.json").exists()
    loaded = load_pretrained_model(tmp_path / "peft", base, device="cpu")[1]
    torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=0)
    assert "no projector beside the adapter" in caplog.text


@pytest.mark.parametrize("bits", [8, 4])
def test_merged_adapters_are_quantised(bits, tmp_path):
    text = LlamaConfig(**{**TEXT, "hidden_size": 64, "intermediate_size": 128})  # blocks of 64 must divide the widths
    config = LlavaConfig(vision_config=vision_config(), text_config=text, image_token_index=IMAGE_TOKEN)
    sharpen(LlavaForConditionalGeneration(config)).save_pretrained(tmp_path / "base")
    model = _load(tmp_path / "base")
    add_adapters(model, r=4, alpha=8)
    fill(model)
    (tmp_path / "tuned").mkdir()
    save_adapter(model, tmp_path / "tuned", model.state_dict(), tmp_path / "base")
    _load(tmp_path / "tuned").save_pretrained(tmp_path / "whole")
    options = {"device_map": {"": "cpu"}, "quantization": bitsandbytes_config(bits, torch.float32)}
    ours, expected = (_load(tmp_path / folder, **options).state_dict() for folder in ("tuned", "whole"))
    quantised = [name for name, tensor in ours.items() if not tensor.is_floating_point()]
    assert sum("_proj.weight" in name for name in quantised) >= 14
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.items())


@pytest.mark.parametrize(("make", "bias"), [(hf_llava, "lora_only"), (hf_llava, "all"), (hf_llava_next, "none")])
def test_biases_and_newline_come_back(make, bias, tmp_path):
    hf = make()
    hf.save_pretrained(tmp_path / "base")
    if bias != "none":
        edit_config(tmp_path / "base", text_config={**hf.config.text_config.to_dict(), "attention_bias": True})
        state = load_file(tmp_path / "base" / "model.safetensors")
        for name in [name for name in state if "_proj.weight" in name and "language_model" in name]:
            if "self_attn" in name:
                state[name.replace(".weight", ".bias")] = torch.zeros(len(state[name]))
        save_file(state, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    model = _load(tmp_path / "base")
    add_adapters(model, r=4, alpha=8, bias=bias)
    fill(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("image_newline") or (name.endswith(".bias") and "language_model" in name):
                parameter.normal_()
    (tmp_path / "tuned").mkdir()
    save_projector(model, tmp_path / "tuned", base_model=tmp_path / "base", newline=True)
    save_adapter(model, tmp_path / "tuned", model.state_dict(), tmp_path / "base")
    merged, ids = _load(tmp_path / "tuned"), random_ids(1, 9)
    with torch.no_grad():
        expected = model(ids).logits
        torch.testing.assert_close(merged(ids).logits, expected, atol=1e-5, rtol=0)
        by_peft = peft.PeftModel.from_pretrained(_load(tmp_path / "base"), tmp_path / "tuned")
        torch.testing.assert_close(by_peft(ids).logits, expected, atol=1e-5, rtol=0)
    if make is hf_llava_next:
        assert torch.equal(merged.model.image_newline, model.model.image_newline)


def _load(folder: Path, **options):
    return instantiate(parts_of_checkpoint(folder), dtype=torch.float32, **options).eval()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"use_dora": True}, "use_dora True"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save \['lm_head'\]"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out True"),
        ({"lora_bias": True}, "lora_bias True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"a_later_invention": 3}, "a_later_invention 3"),
    ],
)
def test_other_kinds_of_adapters_are_refused_by_field(entries, message, of_llava, vicuna):
    folder, _ = of_llava()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **entries}))
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json: {message}.*merge with peft first"):
        load_pretrained_model(folder, vicuna, device="cpu")


def test_wrong_bases_and_incomplete_folders_are_named(of_llava, oracle_dir, vicuna, tmp_path):
    folder, _ = of_llava()
    whole = load_file(folder / "adapter_model.safetensors")
    layer = "base_model.model.model.layers.1.mlp.up_proj."

    def refused(message, base=vicuna, **tensors):
        save_file({**whole, **tensors}, folder / "adapter_model.safetensors")
        with pytest.raises(CheckpointError, match=message):
            load_pretrained_model(folder, base, device="cpu")

    refused(
        r"another model; of another shape \(1\): .*layers\.1\.mlp\.up_proj\.weight is \(160, 64\), .* \(3, 64\)",
        **{f"{layer}lora_B.weight": torch.zeros(3, 4)},
    )
    beyond = {f"base_model.model.model.layers.7.mlp.up_proj.lora_{x}.weight": torch.zeros(4, 4) for x in "AB"}
    refused(r"not in the base \(1\): model\.language_model\.layers\.7\.mlp\.up_proj\.weight", **beyond)
    refused(
        r"layers\.1\.mlp\.up_proj\.lora_A is of rank 2, adapter_config\.json says 4",
        **{f"{layer}lora_A.weight": torch.zeros(2, 64)},
    )
    refused(
        "no factors of linear layers: model.embed_tokens.lora_embedding_A.*merge the adapter with peft first",
        **{"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 700)},
    )
    half = {"base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": torch.zeros(4, 4)}
    refused("only one factor of model.layers.7.mlp.up_proj", **half)
    (folder / "non_lora_trainables.bin").unlink()
    refused("there is no projector beside the adapter .* at their end only.* is a language model without one")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="none of adapter_model"):
        load_pretrained_model(folder, oracle_dir / "tiny-llava-v1.5", device="cpu")
