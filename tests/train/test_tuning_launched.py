"""Schedule, draws and distillation together, as users launch them: two processes, DeepSpeed, killed and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava.model.configuration import CompressionConfig
from llava.train.train import train
from tests.train.conftest import launch_environment, losses_of

ROOT = Path(__file__).parents[2]
LAUNCHED = Path(__file__).with_name("launched.py")

pytestmark = pytest.mark.slow

TUNING = {
    "stage": "projector",
    "compression": "visionzip:54+10",
    "compression_schedule": "cosine",
    "compression_share": 0.6,
    "compression_draw": "32-128",
    "distill_from": "none",
    "global_batch_size": 4,
    "max_steps": 4,
    "learning_rate": "1e-3",
}


@pytest.fixture
def data(oracle_dir, tmp_path):
    """Text-only samples among them: at some steps a process has an image and the other has none."""
    records = json.loads((oracle_dir / "train_tiny.json").read_text())
    file = tmp_path / "data.json"
    file.write_text(json.dumps([*records, *reversed(records), *records, *records]))
    return file


def launch(words, folder, processes=1, **environment):
    """Runs to the end; returns its report, or None where it was killed."""
    folder.mkdir(exist_ok=True)
    environment = launch_environment(REPORT=folder / "report.json", TRACE=folder / "trace", **environment)
    launcher = ["torchrun", "--standalone", "--nproc_per_node", "2"] if processes > 1 else [sys.executable]
    command = [*launcher, str(LAUNCHED), *words]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    if "STOP_SIGNAL" in environment:
        assert done.returncode != 0
        return None
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads((folder / "report.json").read_text())


def budgets(folder, process=0):
    """(step, budget) of every micro-batch."""
    lines = (folder / "trace" / f"{process}.jsonl").read_text().splitlines()
    return [(entry["step"], entry["budget"]) for entry in map(json.loads, lines)]


@pytest.mark.parametrize(("config", "who"), [(None, "start"), ("zero2", "current"), ("zero3", "start")])
def test_two_processes_draw_and_learn_as_one(config, who, flags, data, tmp_path):
    """The same budget in both and in every micro-batch of a step, the same losses, the same projector."""
    if config is not None:
        pytest.importorskip("deepspeed")
    common = {**TUNING, "data_path": data, "distill_teacher": who, "train_sampling_strategy": "sequential"}
    given = {} if config is None else {"deepspeed": config}
    two = launch(flags(**common, **given, output_dir=tmp_path / "two-out"), tmp_path / "two", processes=2)
    one = train(flags(**common, output_dir=tmp_path / "one-out"))
    assert two["wrapper"] == ("DeepSpeedEngine" if config else "DistributedDataParallel") and two["world_size"] == 2
    drawn = budgets(tmp_path / "two")
    assert drawn == budgets(tmp_path / "two", process=1) and len(drawn) == 4 * 2
    tokens = [entry["visual_tokens_per_tile"] for entry in one.state.log_history if "loss" in entry]
    assert [576 if each == "none" else CompressionConfig.parse(each).num_tokens for _, each in drawn[::2]] == tokens
    assert all(len({budget for step, budget in drawn if step == each}) == 1 for each in range(1, 5))
    assert drawn[0] == (1, "none") and len({budget for _, budget in drawn}) >= 3
    assert two["losses"] == pytest.approx(losses_of(one), abs=1e-4)
    ours, expected = (load_file(tmp_path / name / "mm_projector.safetensors") for name in ("two-out", "one-out"))
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-3, rtol=0)


def test_killed_and_resumed_it_repeats_every_bit(flags, data, tmp_path):
    """Budgets, losses and weights are those of the run that was not stopped."""
    common = {**TUNING, "data_path": data, "save_strategy": "steps", "save_steps": 2, "eval_data_path": data}
    common |= {"per_device_train_batch_size": 2, "eval_strategy": "steps", "eval_steps": 2}
    whole = launch(flags(**common, output_dir=tmp_path / "whole-out"), tmp_path / "whole")
    words = flags(**common, output_dir=tmp_path / "cut-out")
    assert launch(words, tmp_path / "cut", STOP_SIGNAL="SIGKILL", STOP_AFTER="3") is None
    assert (tmp_path / "cut-out" / "checkpoint-2").is_dir() and not (tmp_path / "cut-out" / "checkpoint-4").exists()
    cut = launch(words, tmp_path / "cut")
    assert cut["losses"] == whole["losses"]
    assert sorted(set(budgets(tmp_path / "cut"))) == sorted(set(budgets(tmp_path / "whole")))
    ours, expected = (load_file(tmp_path / name / "mm_projector.safetensors") for name in ("cut-out", "whole-out"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())
    states = [json.loads((tmp_path / f"{name}-out" / "trainer_state.json").read_text()) for name in ("cut", "whole")]
    measured = [[entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry] for state in states]
    assert measured[0] == measured[1] and len(measured[0]) == 2
