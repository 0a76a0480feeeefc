"""Tuning under compression in whole runs: what each step's budget is, what is logged, and what the result says."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from llava import load_pretrained_model
from llava.eval.model_origin import origin_of
from llava.hub.run_facts import read_facts
from llava.model.tuned_range import TunedRange
from llava.train.arguments import parse_arguments
from llava.train.run import prepare
from llava.train.train import train
from tests.train.conftest import losses_of


@pytest.fixture
def pictures(oracle_dir, tmp_path):
    """Conversations about pictures only, so that each sample has all visual tokens of its step."""
    records = [each for each in json.loads((oracle_dir / "train_tiny.json").read_text()) if "image" in each]
    file = tmp_path / "pictures.json"
    file.write_text(json.dumps(records * 2))
    return file


def logged(trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_tokens_fall_step_by_step_to_the_final_budget(flags, pictures, tmp_path, caplog):
    """And evaluations along the way are under the final one."""
    run = {"stage": "projector", "compression": "visionzip:54+10", "data_path": pictures, "max_steps": 10}
    run |= {"eval_data_path": pictures, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": "1e-30"}
    with caplog.at_level(logging.INFO):
        trainer = train(flags(**run, compression_schedule="linear", compression_share=0.8, global_batch_size=2))
    # 576 patches fall by 64 a step: an eighth of the way, of which the share of 10 steps has 8
    assert logged(trainer, "visual_tokens_per_tile") == [576, 512, 448, 384, 320, 256, 192, 128, 64, 64]
    assert logged(trainer, "visual_tokens_per_sample") == logged(trainer, "visual_tokens_per_tile")
    measured = logged(trainer, "eval_loss")  # nothing is learned, so that only the budget could change it
    assert len(measured) == 10 and max(measured) - min(measured) < 1e-6
    assert len({round(loss, 4) for loss in losses_of(trainer)}) > 3
    told = "steps have 64 to 576 visual tokens a tile; evaluations and the result are under visionzip:54+10"
    assert told in caplog.text
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["compression"]["dominant"], config["compression"]["contextual"]) == (54, 10)
    assert "compression_range" not in config and origin_of(tmp_path / "out").tuned_for == "visionzip:54+10"


@pytest.mark.parametrize("stage", ["projector", pytest.param("finetune", marks=pytest.mark.slow)])
def test_a_result_of_drawn_budgets_says_its_range_and_keeps_it(stage, flags, pictures, tmp_path):
    out = tmp_path / "out"
    run = {"stage": stage, "data_path": pictures, "max_steps": 3, "learning_rate": "1e-4", "save_steps": 2}
    run |= {"compression": "visionzip:54+10", "compression_draw": "32-128", "save_strategy": "steps"}
    trainer = train(flags(**run))
    tokens = logged(trainer, "visual_tokens_per_tile")
    assert tokens == logged(trainer, "visual_tokens_per_sample") and all(32 <= each <= 128 for each in tokens)
    text = "visionzip:27+5 to visionzip:108+20"
    for folder in (out, out / "checkpoint-2"):
        assert origin_of(folder).tuned_for == text
        config = json.loads((folder / "config.json").read_text())
        assert config["compression"]["dominant"] == 54  # of no step's draw
    assert str(read_facts(out).tuned_for) == text
    _, model, _, _ = load_pretrained_model(out, device="cpu", compression="visionzip:81+15")
    assert str(TunedRange.from_config(model.config.to_dict())) == text and str(model.compression) == "visionzip:81+15"
    model.save_pretrained(tmp_path / "again")
    assert origin_of(tmp_path / "again").tuned_for == text
    # A tuning that goes on from there is of its own budget again.
    train(flags(**{**run, "compression_draw": "none,64", "model_name_or_path": out, "output_dir": tmp_path / "next"}))
    assert origin_of(tmp_path / "next").tuned_for == "visionzip:54+10"
    del run["compression_draw"]
    train(flags(**run, model_name_or_path=out, output_dir=tmp_path / "last"))
    assert origin_of(tmp_path / "last").tuned_for == "visionzip:54+10"
    assert "compression_range" not in json.loads((tmp_path / "last" / "config.json").read_text())


def test_every_budget_sees_the_same_samples(flags, pictures, tmp_path):
    """Cut where an image takes the most: the answers behind it are there under all budgets, or under none."""
    short = {"stage": "projector", "compression": "visionzip:54+10", "data_path": pictures, "model_max_length": 620}
    plain = prepare(parse_arguments(flags(**short))).trainer.train_dataset
    drawn = prepare(parse_arguments(flags(**short, compression_draw="64-400"))).trainer.train_dataset
    taught = prepare(parse_arguments(flags(**short, distill_from="none"))).trainer.train_dataset
    lengths = [
        [getattr(data[index], "input_ids", torch.empty(0)).numel() for index in range(2)]
        for data in (plain, drawn, taught)
    ]
    assert lengths[0] == lengths[1]  # 620 tokens hold 400 and the texts
    assert all(few <= 620 - 576 + 1 for few in lengths[2]) and lengths[2] != lengths[0]


@pytest.mark.slow
def test_a_run_of_other_flags_is_another_run(flags, pictures, tmp_path):
    common = {"stage": "projector", "compression": "visionzip:54+10", "data_path": pictures, "max_steps": 2}
    common |= {"save_strategy": "steps", "save_steps": 1}
    train(flags(**common, compression_draw="32-128"))
    with pytest.raises(ValueError, match=r"--compression_draw was 32-128, is 32-64") as refused:
        train(flags(**common, compression_draw="32-64"))
    assert "distill" not in str(refused.value)
    with pytest.raises(ValueError, match=r"--compression_draw was 32-128, is None"):
        train(flags(**common))
    key = json.loads((tmp_path / "out" / "checkpoint-2" / "run_key.json").read_text())
    assert not [name for name in key if "distill" in name or "compression_schedule" in name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"compression_draw": "32-128", "feature_cache": "x"},
            "--feature_cache holds the tokens of one budget",
        ),
        (
            {"distill_from": "none", "feature_cache": "x"},
            "--feature_cache holds the tokens of one budget, and --d",
        ),
        ({"distill_from": "none", "stage": "lora"}, "--distill_teacher start keeps the projector that"),
        (
            {"distill_from": "none", "stage": "finetune"},
            "--distill_teacher start keeps the projector that",
        ),
        ({"distill_from": "none|fastv:64,layer=1"}, "--distill_from none|fastv:64,layer=1: compression"),
        (
            {"distill_from": "fastv:300,layer=1"},
            "--distill_from fastv:300,layer=1: a teacher keeps its rows",
        ),
        ({"distill_from": "visionzip:700"}, "--distill_from visionzip:700: compression visionzip:700: dominant=700"),
        (
            {"distill_from": "visionzip:27+5"},
            "--distill_from visionzip:27+5 is not less compressed than",
        ),
        ({"distill_from": "visionzip:54+10"}, "--distill_from visionzip:54+10 is not less compressed than the run"),
        (
            {"distill_from": "visionzip:108+20", "compression_schedule": "linear"},
            "--distill_from visionzip:108+20 is not less compressed than the run, which has up to 576 visual tokens",
        ),
        ({"distill_from": "mmtok:300"}, "--distill_from mmtok:300 chooses by the question, and in training there is"),
        (
            {"distill_from": "coverage:98,adaptive=gain,threshold=0.5"},
            "--distill_from coverage:98,adaptive=gain,threshold=0.5: an adaptive teacher may see fewer tokens",
        ),
        (
            {"distill_from": "scope:98,positions=restore", "packing": True},
            "--distill_from scope:98,positions=restore: positions=restore does not go with --packing",
        ),
        ({"distill_from": "none", "compression": "none"}, "--distill_from none is not less compressed than the run"),
        (
            {"compression_draw": "32-128", "torch_compile": True},
            "--torch_compile is for one number of tokens",
        ),
        (
            {"compression_draw": "32-128", "compression": "none"},
            "--compression_draw 32-128: give --compression",
        ),
    ],
)
def test_what_does_not_go_together_is_told_in_a_line(changes, message, flags, tmp_path):
    given = flags(**{"stage": "projector", "compression": "visionzip:54+10", **changes})
    with pytest.raises(ValueError) as refused:
        prepare(parse_arguments(given))
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists() and not Path("x").exists()


def test_a_new_projector_has_no_teacher(flags, oracle_dir):
    parts = {"model_name_or_path": oracle_dir / "origtrain" / "vicuna-tiny", "stage": "align", "version": "plain"}
    parts |= {"vision_tower": oracle_dir / "tiny-clip-vit-l14-336", "data_path": oracle_dir / "pretrain_tiny.json"}
    with pytest.raises(ValueError, match=r"^--distill_from none: a projector that has learned nothing is no teacher"):
        prepare(parse_arguments(flags(**parts, compression="visionzip:54+10", distill_from="none")))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["finetune", "lora"])
def test_other_stages_learn_from_themselves(stage, flags, pictures):
    """Budgets and a teacher of current weights need nothing of their own there."""
    run = {"stage": stage, "compression": "visionzip:54+10", "data_path": pictures, "max_steps": 3}
    run |= {"compression_draw": "32-128", "distill_from": "none", "distill_teacher": "current", "learning_rate": "1e-4"}
    trainer = train(flags(**run, lora_r=4))
    assert all(each > 0 for each in logged(trainer, "distill_loss")) and trainer.teacher._projector is None
