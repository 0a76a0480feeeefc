"""DeepSpeed as users launch it, on two processes of the CPU, and the script that launches it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava.model.multimodal_projector import read_projector
from llava.train.train import train
from tests.train.conftest import losses_of

ROOT = Path(__file__).parents[2]
LAUNCHED = Path(__file__).with_name("launched.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]


def _run(command, **environment):
    folder = str(Path(sys.executable).parent)
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment = {
        **clean,
        "PATH": f"{folder}{os.pathsep}{clean['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        **{name: str(value) for name, value in environment.items()},
    }
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


@pytest.fixture
def data(oracle_dir, tmp_path):
    """Six samples, text-only ones among them: at some steps a process has an image and the other has none."""
    records = json.loads((oracle_dir / "train_tiny.json").read_text())
    file = tmp_path / "six.json"
    file.write_text(json.dumps([*records, *reversed(records)]))
    return file


LAUNCHERS = {
    "torchrun": ["torchrun", "--standalone", "--nproc_per_node", "2"],
    "deepspeed": ["deepspeed", "--num_gpus", "2"],
}


@pytest.mark.parametrize(("launcher", "zero_stage"), [("torchrun", 2), ("deepspeed", 2), ("torchrun", None)])
def test_two_processes_equal_one(launcher, zero_stage, flags, data, tmp_path):
    """Under ZeRO-2, and under torch's own data parallelism where there is no DeepSpeed."""
    common = {
        "stage": "projector",
        "compression": "visionzip:54+10",
        "data_path": data,
        "num_train_epochs": 1,
        "global_batch_size": 2,
        "train_sampling_strategy": "sequential",
        "learning_rate": "1e-3",
    }
    report = tmp_path / "two.json"
    config = {"deepspeed": ROOT / "scripts" / "zero2.json"} if zero_stage else {}
    two = flags(**common, output_dir=tmp_path / "two", **config)
    _run([*LAUNCHERS[launcher], str(LAUNCHED), *two], REPORT=report)
    one = train(flags(**common, output_dir=tmp_path / "one"))

    two_found = json.loads(report.read_text())
    assert two_found["wrapper"] == ("DeepSpeedEngine" if zero_stage else "DistributedDataParallel")
    assert two_found["zero_stage"] == zero_stage
    assert two_found["world_size"] == 2 and one.args.world_size == 1
    assert len(losses_of(one)) == 3
    assert two_found["losses"] == pytest.approx(losses_of(one), abs=1e-4)
    ours, expected = read_projector(tmp_path / "two"), read_projector(tmp_path / "one")
    for name, tensor in expected.items():
        # Gradients are summed in another order, and Adam divides the smallest of them by themselves.
        torch.testing.assert_close(ours[name], tensor, atol=1e-4, rtol=0)


@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun", "python"])
def test_the_tuning_script_runs_under_each_launcher(launcher, oracle_dir, data, tmp_path):
    settings = {
        "LAUNCHER": launcher,
        "LAUNCHER_ARGS": " ".join(LAUNCHERS.get(launcher, [""])[1:]),
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
