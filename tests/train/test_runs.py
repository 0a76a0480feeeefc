"""Whole runs: what is trained, what is logged, what is left behind, and where a run goes on."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from llava import load_pretrained_model
from llava.hub.export import export
from llava.prompts.tokenization import load_tokenizer
from llava.train.train import main, train
from tests.train.conftest import losses_of


def test_projector_tuning_changes_the_projector_only(flags, oracle_dir, tmp_path):
    trainer = train(flags(stage="projector", compression="visionzip:54+10", max_steps=3, data_fraction=0.6))
    out = tmp_path / "out"
    assert sorted(file.name for file in out.iterdir()) == [
        "config.json",
        "mm_projector.safetensors",
        "subset.json",
        "trainer_state.json",
        "training_args.json",
    ]
    assert json.loads((out / "subset.json").read_text())["num_selected"] == 2
    written = json.loads((out / "training_args.json").read_text())
    assert written["stage"] == "projector" and written["training"]["learning_rate"] == 1e-2
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["samples_per_second"] > 0 for entry in logged)
    assert {entry["visual_tokens_per_sample"] for entry in logged} <= {64, 0}

    _, tuned, _, _ = load_pretrained_model(out, model_base=oracle_dir / "tiny-llava-v1.5", device="cpu")
    _, before, _, _ = load_pretrained_model(oracle_dir / "tiny-llava-v1.5", device="cpu")
    assert str(tuned.compression) == "visionzip:54+10"
    old = before.state_dict()
    changed = {name for name, tensor in tuned.state_dict().items() if not torch.equal(tensor, old[name])}
    assert changed and all(name.startswith("model.multi_modal_projector.") for name in changed)


def test_finetuning_leaves_a_whole_checkpoint(flags, oracle_dir, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer = train(flags(stage="finetune", max_steps=2, learning_rate="1e-3", mm_projector_lr="1e-4", **saving))
    for weights in (tmp_path / "out" / "model.safetensors", tmp_path / "out" / "checkpoint-2" / "trained.safetensors"):
        assert weights.stat().st_mode == (tmp_path / "out" / "config.json").stat().st_mode
    rates = {group["lr"] for group in trainer.optimizer.param_groups if group["params"]}
    assert rates == {1e-3, 1e-4}
    tokenizer, model, _, _ = load_pretrained_model(tmp_path / "out", device="cpu")
    trained = trainer.model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, trained[name]), name
    original = load_pretrained_model(oracle_dir / "tiny-llava-v1.5", device="cpu")
    text = "USER: What is it? ASSISTANT: Red.</s>"
    assert tokenizer(text).input_ids == original[0](text).input_ids
    tower = {name: tensor for name, tensor in original[1].state_dict().items() if "vision_tower" in name}
    assert all(torch.equal(trained[name], tensor) for name, tensor in tower.items())
    # and one that can be had in LLaVA's format, whose tokenizer is read from a file of the base
    export(tmp_path / "out", "llava", tmp_path / "llava-out", vision_tower="openai/clip", progress=False)
    again = load_tokenizer(tmp_path / "llava-out")
    assert again(text).input_ids == original[0](text).input_ids


def test_in_bf16_the_trained_part_stays_exact(flags, tmp_path):
    trainer = train(
        flags(stage="projector", compression="visionzip:54+10", max_steps=2, bf16=True, learning_rate="1e-6")
    )
    dtypes = {parameter.requires_grad: parameter.dtype for parameter in trainer.model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    assert trainer.model.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    saved = load_file(tmp_path / "out" / "mm_projector.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


@pytest.mark.parametrize("stage", ["projector", pytest.param("finetune", marks=pytest.mark.slow)])
def test_an_interrupted_run_goes_on_as_if_it_had_not_stopped(stage, flags, tmp_path):
    common = {"stage": stage, "num_train_epochs": 2, "group_by_modality_length": True, "lr_scheduler_type": "cosine"}
    whole = train(flags(**common, output_dir=tmp_path / "whole"))
    saving = {**common, "output_dir": tmp_path / "cut", "save_strategy": "steps", "save_steps": 4}
    train(flags(**saving))
    weights = "mm_projector.safetensors" if stage == "projector" else "model.safetensors"
    (tmp_path / "cut" / weights).unlink()
    checkpoint = tmp_path / "cut" / "checkpoint-4"
    state = set(load_file(checkpoint / "trained.safetensors"))
    assert all("vision_tower" not in name for name in state)
    (tmp_path / "cut" / "checkpoint-6").rename(tmp_path / "cut" / "last")
    resumed = train(flags(**saving))
    assert losses_of(resumed) == pytest.approx(losses_of(whole), abs=1e-6)
    ours, expected = load_file(tmp_path / "cut" / weights), load_file(tmp_path / "whole" / weights)
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=0)


def test_another_run_does_not_go_on_from_a_checkpoint(flags, tmp_path):
    common = {"stage": "projector", "num_train_epochs": 1, "save_strategy": "steps", "save_steps": 1}
    first = {**common, "compression": "visionzip:54+10", "data_fraction": 0.6}
    train(flags(**first))
    out = tmp_path / "out"
    before = {file: file.read_bytes() for file in out.iterdir() if file.is_file()}
    other = flags(**{**first, "compression": "random:20", "learning_rate": "1e-3", "data_fraction": 1})
    with pytest.raises(ValueError) as caught:
        train(other)
    message = str(caught.value)
    for part in ("--compression was", "--learning_rate was 0.01, is 0.001", "--data_fraction was 0.6", "--output_dir"):
        assert part in message
    assert "--stage" not in message and "\n" not in message
    assert {file: file.read_bytes() for file in out.iterdir() if file.is_file()} == before

    assert train(flags(**first)).state.global_step == 2  # finished already: nothing is trained, nothing changes
    assert (out / "mm_projector.safetensors").read_bytes() == before[out / "mm_projector.safetensors"]

    train([*other, "--resume_from_checkpoint", "none"])
    assert json.loads((out / "config.json").read_text())["compression"]["method"] == "random"
    assert (out / "mm_projector.safetensors").read_bytes() != before[out / "mm_projector.safetensors"]
    assert not (out / "subset.json").exists()


def test_text_and_broken_samples_do_not_stop_a_run(flags, tmp_path, caplog):
    images = tmp_path / "images"
    images.mkdir()
    (images / "broken.png").write_text("no image")
    Image.new("RGB", (40, 30), "red").save(images / "red.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]
    records = [
        {"id": "a", "image": "broken.png", "conversations": turns},
        {"id": "b", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho."}]},
        {"id": "c", "image": "red.png", "conversations": turns},
    ]
    (tmp_path / "d.json").write_text(json.dumps(records))
    with caplog.at_level("WARNING"):
        trainer = train(
            flags(
                stage="projector",
                data_path=tmp_path / "d.json",
                image_folder=images,
                num_train_epochs=2,
                train_sampling_strategy="sequential",
                max_bad_fraction=0.5,
            )
        )
    assert sum("broken.png" in message for message in caplog.messages) == 1
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["skipped_samples"] for entry in logged] == [1, 1, 1, 2, 2, 2]
    assert logged[0]["loss"] == 0 and logged[1]["loss"] > 0 and logged[2]["loss"] > 0
    assert logged[1]["grad_norm"] == 0 and logged[2]["grad_norm"] > 0


def test_the_loss_is_the_mean_over_the_tokens_of_a_step(flags, tmp_path):
    at_once = train(flags(stage="projector", per_device_train_batch_size=3, max_steps=2, output_dir=tmp_path / "a"))
    in_parts = train(flags(stage="projector", global_batch_size=3, max_steps=2, output_dir=tmp_path / "b"))
    assert in_parts.args.gradient_accumulation_steps == 3
    assert losses_of(in_parts) == pytest.approx(losses_of(at_once), abs=1e-5)


def test_a_frozen_tower_keeps_nothing_for_a_backward_pass(oracle_dir):
    """transformers' gradient checkpointing marks the input of every part, the tower's included."""
    _, model, _, _ = load_pretrained_model(oracle_dir / "tiny-llava-v1.5", device="cpu", torch_dtype=torch.float32)
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    model.train()
    pixels = torch.zeros(1, 3, 336, 336)
    seen = model.model.encode(pixels)
    assert not seen.tokens.requires_grad
    assert model.model.project(seen, None)[0].requires_grad
    model.model.vision_tower.requires_grad_(True)
    assert model.model.encode(pixels).tokens.requires_grad
    model.model.vision_tower.requires_grad_(False)
    model.disable_input_require_grads()
    assert model.model.encode(pixels.requires_grad_()).tokens.requires_grad


def test_a_language_model_needs_a_tower(flags, oracle_dir):
    with pytest.raises(ValueError, match="give --vision_tower"):
        train(flags(model_name_or_path=oracle_dir / "origtrain" / "vicuna-tiny"))


def test_a_missing_checkpoint_ends_the_program_in_one_line(flags, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", *flags(model_name_or_path=tmp_path / "none")])
    with pytest.raises(SystemExit, match=r"error: .*none: there is no such folder"):
        main()


def _one_line(arguments, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert "\n" not in caught.value.code
    return caught.value.code


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_image_ends_the_program_in_one_line(workers, flags, tmp_path, monkeypatch):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]
    (tmp_path / "d.json").write_text(json.dumps([{"id": "a", "image": "gone.png", "conversations": turns}]))
    changes = {"data_path": tmp_path / "d.json", "image_folder": tmp_path, "dataloader_num_workers": workers}
    said = _one_line(flags(stage="projector", **changes), monkeypatch)
    assert said == f"error: image {tmp_path / 'gone.png'} of sample 'a' does not exist"


def test_a_wrong_checkpoint_to_go_on_from_ends_the_program_in_one_line(flags, tmp_path, monkeypatch):
    said = _one_line(flags(stage="projector", resume_from_checkpoint=tmp_path / "none"), monkeypatch)
    assert said.startswith(f"error: --resume_from_checkpoint {tmp_path / 'none'} is no whole checkpoint")
