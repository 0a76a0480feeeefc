"""What is logged of a run's speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava.model.device_peaks import peak_tflops
from llava.model.flops import Trained, step_flops
from llava.train.throughput import work_of
from llava.train.train import train
from tests.train.conftest import losses_of


def test_each_step_is_logged_with_its_figures(flags, oracle_dir):
    setting = {"compression": "visionzip:54+10", "image_aspect_ratio": "pad", "num_train_epochs": 1}
    trainer = train(flags(stage="projector", **setting, peak_tflops=0.5, train_sampling_strategy="sequential"))
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    records = json.loads((oracle_dir / "train_tiny.json").read_text())
    assert [entry["visual_tokens_per_sample"] for entry in logged] == [64 * ("image" in record) for record in records]
    for index, entry in enumerate(logged):
        assert entry["learning_rate"] == 1e-2 and entry["samples_per_second"] > 0
        assert 0 <= entry["data_wait_seconds"] < 1 / entry["samples_per_second"] and 0.1 < entry["peak_memory_gib"] < 64
        tokens = len(trainer.train_dataset[index].input_ids) + (63 if "image" in records[index] else 0)
        assert entry["tokens_per_second"] / entry["samples_per_second"] == pytest.approx(tokens, rel=0.01)
        work = work_of(trainer.model, trainer.data_collator([trainer.train_dataset[index]]))
        assert list(work.lengths) == [tokens] and work.tiles == int("image" in records[index])
        flops = step_flops(trainer.model.config, work, Trained()).total
        assert entry["mfu"] == pytest.approx(flops * entry["samples_per_second"] / 0.5e12, rel=0.02, abs=2e-6)


def test_peaks_by_name():
    assert peak_tflops("NVIDIA H200") == peak_tflops("NVIDIA H100 80GB HBM3") == 989.4
    assert peak_tflops("NVIDIA A100-SXM4-80GB") == 312 and peak_tflops("NVIDIA A10") == 125
    assert peak_tflops("NVIDIA GeForce RTX 3090") == 71 and peak_tflops("NVIDIA L40S") == 362.05
    assert peak_tflops("NVIDIA GeForce RTX 4090 Laptop GPU") is None and peak_tflops("GeForce GTX 1080") is None


@pytest.mark.parametrize("stage", ["projector", pytest.param("finetune", marks=pytest.mark.slow)])
def test_packed_runs_have_the_losses_of_padded_ones(stage, flags, oracle_dir):
    common = {"compression": "visionzip:54+10", "per_device_train_batch_size": 3, "num_train_epochs": 2}
    given = {**common, "stage": stage, "learning_rate": "1e-3"}
    padded, packed = (train(flags(**given, packing=packing)) for packing in (False, True))
    assert losses_of(packed) == pytest.approx(losses_of(padded), abs=1e-5) and len(losses_of(packed)) == 2
    assert not any("mfu" in entry for entry in packed.state.log_history)  # the peak of this device is not known


@pytest.mark.slow
def test_the_benchmark_compares_the_plain_way_and_ours(tmp_path):
    root = Path(__file__).parents[2]
    command = [
        sys.executable,
        root / "benchmarks" / "train_throughput.py",
        "--device",
        "cpu",
        "--json",
        tmp_path / "t.json",
    ]
    options = ["--size", "toy", "--samples", "2", "--batch", "2", "--warmup", "0", "--repeats", "2"]
    subprocess.run([*command, *options], env={**os.environ, "PYTHONPATH": str(root)}, check=True, timeout=600)
    found = json.loads((tmp_path / "t.json").read_text())
    plain, ours = found["rows"]
    assert (plain["side"], ours["side"]) == ("plain", "ours")
    slow, fast = ([float(rate) for rate in side["spread"].split(" to ")] for side in (plain, ours))
    assert 0.99 * fast[0] / slow[1] < found["ratio_to_plain"] < 1.01 * fast[1] / slow[0]  # rates are told to 3 digits
    assert ours["minutes for 66500"] == pytest.approx(66500 / ours["samples a second"] / 60)
    assert ours["gap"] == pytest.approx(ours["minutes for 66500"] / ours["floor, minutes"])
