"""LoRA and QLoRA: what learns, what is saved, and that it comes back as the model that was trained."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, MistralConfig

from llava import load_pretrained_model
from llava.model.merge import main as merge
from llava.train.arguments import parse_arguments
from llava.train.start import start_model
from llava.train.train import train
from tests.model.tiny import IMAGE_TOKEN, PINPOINTS, TEXT, random_pixels, vision_config
from tests.train.conftest import losses_of

TINY = Path(__file__).parents[2] / "playground" / "tiny" / "model"
PROJECTOR = r"model\.multi_modal_projector\.linear_[12]\.(weight|bias)"
NEWLINE = r"model\.image_newline"
LANGUAGE_MODEL = r"(model\.language_model\..*|lm_head)\.weight"
ADAPTERS = (
    r"model\.language_model\.layers\.\d\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.lora_[AB]\.default\.weight"
)
TRAINED = {
    "align": [PROJECTOR],
    "projector": [PROJECTOR],
    "finetune": [PROJECTOR, NEWLINE, LANGUAGE_MODEL],
    "lora": [PROJECTOR, NEWLINE, ADAPTERS],
    "qlora": [PROJECTOR, NEWLINE, ADAPTERS],
}
NUMBER = {"align": 4, "projector": 4, "finetune": 4 + 1 + 2 * 9 + 3, "lora": 4 + 1 + 2 * 14, "qlora": 4 + 1 + 2 * 14}


@pytest.fixture(scope="module")
def next_model(oracle_dir, tmp_path_factory):
    """A tiny LLaVA-NeXT, wide enough for bitsandbytes' blocks of 64."""
    folder = tmp_path_factory.mktemp("next")
    text = MistralConfig(**{**TEXT, "hidden_size": 64, "intermediate_size": 128}, sliding_window=None)
    config = LlavaNextConfig(
        vision_config=vision_config(), text_config=text, image_token_index=IMAGE_TOKEN, image_grid_pinpoints=PINPOINTS
    )
    LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(oracle_dir / "tiny-llava-v1.6-next" / name, folder)
    shutil.copy(oracle_dir / "tiny-clip-vit-l14-336" / "preprocessor_config.json", folder)
    return folder


@pytest.mark.parametrize("stage", TRAINED)
def test_exactly_what_a_stage_trains_has_gradients(stage, flags, next_model):
    changes = {"bits": 4} if stage == "qlora" else {}
    arguments = parse_arguments(flags(stage=stage, model_name_or_path=next_model, **changes))
    _, model, _ = start_model(arguments, arguments.stage)
    ids, tiles = torch.tensor([[1, 30, -200, 40, 50, 60]]), random_pixels(3, 3, 28, 28)
    model(input_ids=ids, labels=ids.clamp(min=-100), images=[tiles], image_sizes=[(28, 56)]).loss.backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(with_gradient) == NUMBER[stage]
    for name in with_gradient:
        assert any(re.fullmatch(pattern, name) for pattern in TRAINED[stage]), name
    for pattern in TRAINED[stage]:
        assert any(re.fullmatch(pattern, name) for name in with_gradient), pattern
    assert with_gradient == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.fixture
def tiny(flags):
    """Flags of a run on the project's own tiny model, which is fast."""
    return lambda **changes: flags(model_name_or_path=TINY, **changes)


def logits_of(model):
    size = model.config.vision_config.image_size
    with torch.no_grad():
        return model.eval()(torch.tensor([[1, 30, -200, 40, 50]]), images=random_pixels(1, 3, size, size)).logits


def test_lora_learns_and_comes_back_merged(tiny, tmp_path):
    base = TINY
    saving = {"save_strategy": "steps", "save_steps": 10}
    given = {"lora_enable": True, "lora_r": 4, "lora_alpha": 8, "max_steps": 10, "compression": "visionzip:20+6"}
    trainer = train(tiny(**given, **saving, learning_rate="2e-3", mm_projector_lr="1e-3"))
    assert trainer.stage.name == "lora"
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {2e-3, 1e-3}
    losses = losses_of(trainer)
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    out = tmp_path / "out"
    assert {"adapter_model.safetensors", "adapter_config.json", "mm_projector.safetensors", "config.json"} <= {
        file.name for file in out.iterdir()
    }
    assert not (out / "model.safetensors").exists()
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    trained = logits_of(trainer.model)

    _, merged, _, _ = load_pretrained_model(out, device="cpu")
    assert str(merged.compression) == "visionzip:20+6"
    torch.testing.assert_close(logits_of(merged), trained, atol=1e-5, rtol=0)
    state = merged.state_dict()
    for folder in (out, out / "checkpoint-10"):
        _, again, _, _ = load_pretrained_model(folder, base, device="cpu")
        assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())

    _, plain, _, _ = load_pretrained_model(base, device="cpu", compression="visionzip:20+6")
    by_peft = peft.PeftModel.from_pretrained(plain, out).merge_and_unload()
    for name, tensor in by_peft.state_dict().items():
        if "multi_modal_projector" not in name:
            torch.testing.assert_close(state[name], tensor, atol=1e-6, rtol=0, msg=name)

    merge(["--adapter", str(out), "--output", str(tmp_path / "whole")])
    _, whole, _, _ = load_pretrained_model(tmp_path / "whole", device="cpu")
    for name, tensor in whole.state_dict().items():  # in the base's dtype
        assert torch.equal(state[name].bfloat16().float(), tensor), name
    with pytest.raises(SystemExit, match=r"error: --output .*whole exists already"):
        merge(["--model-path", str(out), "--model-base", str(base), "--save-model-path", str(tmp_path / "whole")])


@pytest.mark.parametrize("stage", ["projector", "finetune"])
def test_checkpoints_under_way_load_too(stage, tiny, tmp_path):
    trainer = train(tiny(stage=stage, max_steps=1, save_strategy="steps", save_steps=1))
    checkpoint = tmp_path / "out" / "checkpoint-1"
    tokenizer, model, _, _ = load_pretrained_model(checkpoint, device="cpu")
    assert tokenizer("a").input_ids[0] == 1
    torch.testing.assert_close(logits_of(model), logits_of(trainer.model), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_lora_run_goes_on_as_if_it_had_not_stopped(tiny, tmp_path):
    common = {"stage": "lora", "lora_r": 4, "num_train_epochs": 2, "lr_scheduler_type": "cosine"}
    whole = train(tiny(**common, output_dir=tmp_path / "whole"))
    saving = {**common, "output_dir": tmp_path / "cut", "save_strategy": "steps", "save_steps": 4}
    train(tiny(**saving))
    (tmp_path / "cut" / "checkpoint-6").rename(tmp_path / "cut" / "last")
    (tmp_path / "cut" / "adapter_model.safetensors").unlink()
    resumed = train(tiny(**saving))
    assert losses_of(resumed) == pytest.approx(losses_of(whole), abs=1e-6)
    ours, expected = (load_file(tmp_path / run / "adapter_model.safetensors") for run in ("cut", "whole"))
    assert ours.keys() == expected.keys()
    assert all(torch.allclose(ours[name], tensor, atol=1e-6, rtol=0) for name, tensor in expected.items())
    with pytest.raises(ValueError, match="--lora_r was 4, is 8"):
        train(tiny(**{**saving, "lora_r": 8}))


@pytest.mark.parametrize(
    "precision",
    [
        {},
        pytest.param({"bf16": True, "gradient_checkpointing": True}, marks=pytest.mark.slow),
    ],
)
def test_qlora_learns_and_loads_on_its_base(precision, tiny, tmp_path):
    import bitsandbytes

    steps = {"max_steps": 8, "learning_rate": "2e-3", "lora_r": 4}
    trainer = train(tiny(bits=4, lora_enable=True, compression="visionzip:20+6", **steps, **precision))
    assert trainer.stage.name == "qlora"
    layer = trainer.model.model.language_model.layers[0]
    assert isinstance(layer.mlp.up_proj.base_layer, bitsandbytes.nn.Linear4bit)
    assert layer.input_layernorm.weight.dtype == layer.mlp.up_proj.lora_A["default"].weight.dtype == torch.float32
    run_dtype = torch.bfloat16 if precision else torch.float32
    assert trainer.model.lm_head.weight.dtype == run_dtype and type(trainer.model.lm_head) is torch.nn.Linear
    losses = losses_of(trainer)
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])
    _, model, _, _ = load_pretrained_model(tmp_path / "out", device="cpu")
    assert type(model.model.language_model.layers[0].mlp.up_proj) is torch.nn.Linear
    _, base, _, _ = load_pretrained_model(TINY, device="cpu")
    adapter = load_file(tmp_path / "out" / "adapter_model.safetensors")
    prefix = "base_model.model.model.language_model.layers.1.self_attn.q_proj."
    change = 16 / 4 * adapter[prefix + "lora_B.weight"] @ adapter[prefix + "lora_A.weight"]
    ours, before = (m.model.language_model.layers[1].self_attn.q_proj.weight for m in (model, base))
    assert change.abs().max() > 1e-3
    torch.testing.assert_close(ours - before, change, atol=1e-6, rtol=0)


def test_8_bit_learns(tiny):
    import bitsandbytes

    trainer = train(tiny(stage="qlora", bits=8, max_steps=1, lora_r=4))
    up = trainer.model.model.language_model.layers[0].mlp.up_proj
    assert isinstance(up.base_layer, bitsandbytes.nn.Linear8bitLt) and up.lora_B["default"].weight.abs().max() > 0


@pytest.mark.slow
def test_a_frozen_projector_is_saved_all_the_same(flags, oracle_dir, tmp_path):
    """It may have come from elsewhere; on a language model nothing else has it."""
    given = {
        "model_name_or_path": oracle_dir / "origtrain" / "vicuna-tiny",
        "vision_tower": oracle_dir / "tiny-clip-vit-l14-336",
        "pretrain_mm_mlp_adapter": oracle_dir / "origtrain" / "mm_projector_after_pretrain.bin",
    }
    trainer = train(flags(stage="lora", max_steps=1, freeze_mm_mlp_adapter=True, compression="visionzip:20+6", **given))
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    _, model, _, _ = load_pretrained_model(tmp_path / "out", device="cpu")
    torch.testing.assert_close(logits_of(model), logits_of(trainer.model), atol=1e-5, rtol=0)


def test_in_bf16_the_adapters_stay_exact(tiny):
    trainer = train(tiny(stage="lora", max_steps=1, lora_r=4, bf16=True, gradient_checkpointing=True))
    dtypes = {parameter.requires_grad: parameter.dtype for parameter in trainer.model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 4}, "--bits 4 quantises the language model.*--stage finetune.*say --stage qlora"),
        ({"bits": 4, "stage": "lora"}, "--stage lora does not expect"),
        ({"stage": "qlora"}, "give --bits 4 or --bits 8"),
        ({"stage": "projector", "lora_enable": True}, "--stage projector does not; drop one"),
        ({"lora_enable": True, "tune_mm_mlp_adapter": True}, "--tune_mm_mlp_adapter True trains the projector only"),
        ({"bits": 3}, "--bits 3 is none of 4, 8, 16"),
        ({"lora_bias": "some"}, "--lora_bias some is none of none, all, lora_only"),
        ({"lora_r": 0}, "--lora_r 0"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(changes, message, flags):
    with pytest.raises(ValueError, match=message):
        _ = parse_arguments(flags(**changes)).stage
