"""Tuning under compression in whole runs: what each step's budget is, what is logged, and what the result says."""

from __future__ import annotations

import json

import pytest

from llava.train.train import train


@pytest.fixture
def pictures(oracle_dir, tmp_path):
    """Conversations about pictures only, so that each sample has all visual tokens of its step."""
    records = [each for each in json.loads((oracle_dir / "train_tiny.json").read_text()) if "image" in each]
    file = tmp_path / "pictures.json"
    file.write_text(json.dumps(records * 2))
    return file


def logged(trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if "loss" in entry]


def test_tokens_fall_step_by_step_to_the_final_budget(flags, pictures, tmp_path):
    run = {"stage": "projector", "compression": "visionzip:54+10", "data_path": pictures, "max_steps": 10}
    trainer = train(flags(**run, compression_schedule="linear", compression_share=0.8, global_batch_size=2))
    # 576 patches fall by 64 a step: an eighth of the way, of which the share of 10 steps has 8
    assert logged(trainer, "visual_tokens_per_tile") == [576, 512, 448, 384, 320, 256, 192, 128, 64, 64]
    assert logged(trainer, "visual_tokens_per_sample") == logged(trainer, "visual_tokens_per_tile")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["compression"]["dominant"], config["compression"]["contextual"]) == (54, 10)
    assert "compression_range" not in config
