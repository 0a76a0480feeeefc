"""Stopped by SIGTERM or SIGKILL and started again, a run ends where the uninterrupted one does.

Stage, launch (processes and ZeRO stage) and signal are covered pairwise.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.train.conftest import launch_environment

ROOT = Path(__file__).parents[2]
LAUNCHED = Path(__file__).with_name("launched.py")
STEPS = 10
BATCH = 2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]

# stage, processes, ZeRO stage, signal
CASES = [
    ("projector", 1, None, "SIGTERM"),
    ("projector", 2, 2, "SIGKILL"),
    ("projector", 2, 3, "SIGTERM"),
    ("lora", 2, None, "SIGKILL"),
    ("lora", 1, 3, "SIGKILL"),
    ("lora", 2, 2, "SIGTERM"),
    ("finetune", 1, 2, "SIGKILL"),
    ("finetune", 2, 3, "SIGKILL"),
    ("finetune", 2, None, "SIGTERM"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twenty conversations of different texts, every third without an image."""
    folder = tmp_path_factory.mktemp("data")
    records = []
    for number in range(STEPS * BATCH):
        record = {
            "id": str(number),
            "conversations": [
                {"from": "human", "value": f"What is number {number}?"},
                {"from": "gpt", "value": f"It is {number * number}."},
            ],
        }
        if number % 3:
            record["image"] = f"{number}.png"
            record["conversations"][0]["value"] = "<image>\n" + record["conversations"][0]["value"]
            Image.new("RGB", (40 + number, 30), (number * 12, 80, 200)).save(folder / f"{number}.png")
        records.append(record)
    (folder / "data.json").write_text(json.dumps(records))
    return folder


def _flags(stage, processes, zero_stage, data, model, output):
    given = {
        "stage": stage,
        "compression": "visionzip:54+10",
        "model_name_or_path": model,
        "version": "v1",
        "data_path": data / "data.json",
        "image_folder": data,
        "output_dir": output,
        "global_batch_size": BATCH,
        "per_device_train_batch_size": 1,
        "num_train_epochs": 1,
        "learning_rate": "1e-3",
        "lora_r": 4,
        "lora_alpha": 8,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 5,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **({"deepspeed": ROOT / "configs" / "deepspeed" / f"zero{zero_stage}.json"} if zero_stage else {}),
    }
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def _launch(processes, zero_stage, flags, folder, **environment):
    """Runs to the end; returns exit status and what was written to the screen."""
    folder.mkdir(exist_ok=True)
    environment = launch_environment(REPORT=folder / "report.json", TRACE=folder / "trace", **environment)
    launcher = ["torchrun", "--standalone", "--nproc_per_node", str(processes)]
    command = [*(launcher if processes > 1 or zero_stage else [sys.executable]), str(LAUNCHED), *flags]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout[-2000:] + done.stderr[-6000:]


def _trace(folder, processes):
    """{(step, process): texts} of the lineage that counts: what a later run repeats replaces what was lost."""
    texts = {}
    for process in range(processes):
        entries = [json.loads(line) for line in (folder / "trace" / f"{process}.jsonl").read_text().splitlines()]
        last_run = {entry["step"]: entry["run"] for entry in entries}
        for entry in entries:
            if entry["run"] == last_run[entry["step"]]:
                texts.setdefault((entry["step"], process), []).extend(entry["texts"])
    return texts


def _weights(output):
    return {file.name: load_file(file) for file in sorted(output.glob("*.safetensors"))}


@pytest.mark.parametrize(("stage", "processes", "zero_stage", "sent"), CASES)
def test_stopped_and_resumed(stage, processes, zero_stage, sent, data, oracle_dir, tmp_path):
    model = oracle_dir / "tiny-llava-v1.5"

    def launch(name, **environment):
        flags = _flags(stage, processes, zero_stage, data, model, tmp_path / f"{name}-out")
        return _launch(processes, zero_stage, flags, tmp_path / name, **environment)

    status, said = launch("whole")
    assert status == 0, said
    # SIGTERM comes in step 5, which is saved; SIGKILL in step 8, and steps 6 and 7 are lost.
    status, said = launch("cut", STOP_SIGNAL=sent, STOP_AFTER="4" if sent == "SIGTERM" else "7")
    assert status != 0
    assert (tmp_path / "cut-out" / "checkpoint-5").is_dir(), said
    assert not (tmp_path / "cut-out" / "checkpoint-10").exists()
    lost = _trace(tmp_path / "cut", processes)
    # The other process may be in step 8 already when its launcher ends it.
    assert max(step for step, _ in lost) in ([5] if sent == "SIGTERM" else [7, 8])
    status, said = launch("cut")
    assert status == 0, said

    whole, cut = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "cut"))
    wrapper = "DeepSpeedEngine" if zero_stage else "DistributedDataParallel" if processes > 1 else None
    assert wrapper in (cut["wrapper"], None)
    assert cut["zero_stage"] == zero_stage and cut["world_size"] == processes
    assert len(whole["losses"]) == STEPS
    assert cut["losses"] == pytest.approx(whole["losses"], abs=1e-6)

    seen = _trace(tmp_path / "cut", processes)
    assert seen == _trace(tmp_path / "whole", processes)
    texts = [text for entry in seen.values() for text in entry]
    assert len(texts) == len(set(texts)) == STEPS * BATCH

    ours, expected = _weights(tmp_path / "cut-out"), _weights(tmp_path / "whole-out")
    assert ours.keys() == expected.keys() and expected
    for name, tensors in expected.items():
        for key, tensor in tensors.items():
            torch.testing.assert_close(ours[name][key], tensor, atol=1e-6, rtol=0)
