"""LLaVA's published commands, on the tiny model: their flags whole, then those that name files and the machine."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

from tests.train.conftest import free_port, launch_environment
from tests.train.test_arguments import EVERY, PUBLISHED

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]


@pytest.mark.parametrize(
    ("script", "result"),
    [
        ("v1_5/pretrain", "mm_projector.safetensors"),
        ("v1_5/finetune", "model.safetensors"),
        ("v1_5/finetune_task_lora", "adapter_model.safetensors"),
    ],
)
def test_llavas_commands_run(script, result, oracle_dir, tmp_path):
    own = {
        "data_path": oracle_dir / ("pretrain_tiny.json" if "pretrain" in script else "train_tiny.json"),
        "image_folder": oracle_dir / "images",
        "output_dir": tmp_path / "out",
        "model_max_length": 1024,
        "report_to": "none",
        "use_cpu": True,
        "per_device_train_batch_size": 1,
        "max_steps": 2,
        "dataloader_num_workers": 0,
        "disable_tqdm": True,
    }
    if "task" in script:
        own["model_name_or_path"] = oracle_dir / "tiny-llava-v1.5"
    else:
        own["model_name_or_path"] = oracle_dir / "origtrain" / "vicuna-tiny"
        own["vision_tower"] = oracle_dir / "tiny-clip-vit-l14-336"
    if script == "v1_5/finetune":
        own["pretrain_mm_mlp_adapter"] = oracle_dir / "origtrain" / "mm_projector.bin"
    words = [*EVERY.split(), *PUBLISHED[script][0].split()]
    words += [word for name, value in own.items() for word in (f"--{name}", str(value))]
    command = ["deepspeed", "--num_gpus", "2", "--master_port", str(free_port()), "llava/train/train_mem.py", *words]
    done = subprocess.run(
        command, env=launch_environment(), cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-6000:]
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["global_step"] == 2 and all(entry["loss"] > 0 for entry in state["log_history"] if "loss" in entry)
    assert (tmp_path / "out" / result).is_file()
