"""DeepSpeed as users launch it, on two processes of the CPU, and the script that launches it."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava.train.train import train
from tests.train.conftest import free_port, launch_environment, losses_of

ROOT = Path(__file__).parents[2]
LAUNCHED = Path(__file__).with_name("launched.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]


def _run(command, **environment):
    environment = launch_environment(**environment)
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


@pytest.fixture
def data(oracle_dir, tmp_path):
    """Six samples, text-only ones among them: at some steps a process has an image and the other has none."""
    records = json.loads((oracle_dir / "train_tiny.json").read_text())
    file = tmp_path / "six.json"
    file.write_text(json.dumps([*records, *reversed(records)]))
    return file


def launcher_words(launcher: str) -> list[str]:
    return {
        "torchrun": ["torchrun", "--standalone", "--nproc_per_node", "2"],
        "deepspeed": ["deepspeed", "--num_gpus", "2", "--master_port", str(free_port())],
        "python": ["python"],
    }[launcher]


CONFIGS = ROOT / "llava" / "configs" / "deepspeed"


@pytest.mark.parametrize(
    ("stage", "launcher", "config", "zero_stage"),
    [
        ("projector", "torchrun", None, None),
        ("lora", "torchrun", "zero1", 1),
        ("projector", "deepspeed", "zero2", 2),
        ("finetune", "torchrun", "zero2", 2),
        ("lora", "torchrun", "zero2", 2),
        ("projector", "torchrun", "zero2_offload", 2),
        ("finetune", "torchrun", "zero3", 3),
        ("projector", "deepspeed", "zero3_offload", 3),
    ],
)
def test_two_processes_equal_one(stage, launcher, config, zero_stage, flags, data, tmp_path):
    """Under every DeepSpeed config, and under torch's own data parallelism.

    At some steps one process has an image and the other has none: neither may wait for the other for ever.
    """
    common = {
        "stage": stage,
        "compression": "visionzip:54+10",
        "data_path": data,
        "max_steps": 10,
        "global_batch_size": 2,
        "train_sampling_strategy": "sequential",
        "learning_rate": "1e-3",
        "lora_dropout": 0,
    }
    report = tmp_path / "two.json"
    given = {"deepspeed": CONFIGS / f"{config}.json"} if config else {}
    two = flags(**common, output_dir=tmp_path / "two", **given)
    _run([*launcher_words(launcher), str(LAUNCHED), *two], REPORT=report)
    one = train(flags(**common, output_dir=tmp_path / "one"))

    two_found = json.loads(report.read_text())
    assert two_found["wrapper"] == ("DeepSpeedEngine" if config else "DistributedDataParallel")
    assert two_found["zero_stage"] == zero_stage
    assert two_found["world_size"] == 2 and one.args.world_size == 1
    assert len(losses_of(one)) == 10
    assert two_found["losses"] == pytest.approx(losses_of(one), abs=1e-4)
    weights = "model.safetensors" if stage == "finetune" else "mm_projector.safetensors"
    ours, expected = load_file(tmp_path / "two" / weights), load_file(tmp_path / "one" / weights)
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        # Gradients are summed in another order, and Adam divides the smallest of them by themselves.
        torch.testing.assert_close(ours[name], tensor, atol=1e-3, rtol=0)


@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun", "python"])
def test_the_tuning_script_runs_under_each_launcher(launcher, oracle_dir, data, tmp_path):
    settings = {
        "LAUNCHER": launcher,
        "LAUNCHER_ARGS": " ".join(launcher_words(launcher)[1:]),
        "CKPT": oracle_dir / "tiny-llava-v1.5",
        "DATA": data,
        "IMAGES": oracle_dir / "images",
        "OUTPUT": tmp_path / "tuned",
        "FRACTION": 0.7,
        "GLOBAL_BATCH": 4,
        "BATCH": 1,
        "CPU": True,
        "WORKERS": 1,
        "LR": "1e-3",
    }
    _run(["bash", str(ROOT / "scripts" / "v1_5" / "visionzip_tune.sh"), "--max_steps", "1"], **settings)
    written = json.loads((tmp_path / "tuned" / "training_args.json").read_text())
    processes = 1 if launcher == "python" else 2
    assert written["training"]["gradient_accumulation_steps"] == 4 // processes
    assert written["training"]["bf16"] is True
    assert json.loads((tmp_path / "tuned" / "subset.json").read_text())["num_selected"] == 4
    assert (tmp_path / "tuned" / "mm_projector.safetensors").is_file()
    assert not (tmp_path / "tuned" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_checkpoint_of_another_number_of_processes_is_refused_before_it_is_loaded(flags, tmp_path):
    """Two processes under ZeRO-2 wrote it; one cannot read it, and two can."""
    out = tmp_path / "out"
    given = flags(stage="projector", max_steps=2, save_strategy="steps", save_steps=1, deepspeed="zero2")

    def run(processes: int) -> subprocess.CompletedProcess[str]:
        launcher = ["torchrun", "--standalone", "--nproc_per_node", str(processes), "-m", "llava.train.train"]
        sizes = ["--global_batch_size", "2", "--per_device_train_batch_size", "1"]
        return subprocess.run(
            [*launcher, *given, *sizes], env=launch_environment(), cwd=ROOT, capture_output=True, text=True, timeout=300
        )

    done = run(2)
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.rmtree(out / "checkpoint-2")  # as if it had been killed in its second step
    refused = run(1)
    said = f"error: {out / 'checkpoint-1'} was written by 2 process(es) under DeepSpeed, and this run has 1: "
    assert refused.returncode != 0 and said in refused.stderr, refused.stderr[-3000:]
    assert "ZeRO-2 checkpoint" not in refused.stderr and "load_checkpoint" not in refused.stderr
    assert run(2).returncode == 0
