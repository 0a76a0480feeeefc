"""What wandb and tensorboard are told of a run, read back from the files that they wrote."""

from __future__ import annotations

import json
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava.train.code_version import code_version
from llava.train.train import train
from tests.train.conftest import losses_of

METRICS = ("loss", "learning_rate", "samples_per_second", "visual_tokens_per_sample")


@pytest.fixture
def run(flags, tmp_path):
    """A short run of a recipe that reports to a tracker."""

    def run(tracker: str):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text("stage: projector\ncompression: visionzip:54+10\n")
        words = flags(max_steps=3, report_to=tracker, run_name="tiny")
        return train([*words, "--recipe", str(recipe)]), str(recipe)

    return run


def check_config(config: dict, recipe: str) -> None:
    assert (config["stage"], config["recipe"]) == ("projector", [recipe])
    assert config["model"]["compression"] == "visionzip:54+10"
    assert config["data"]["data_path"].endswith("train_tiny.json")
    assert config["learning_rate"] == 1e-2
    assert config["provenance"] == code_version()


def test_provenance_is_the_checkouts_commit():
    found, root = code_version(), Path(__file__).parents[2]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        head = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        assert found["commit"] == head and isinstance(found["modified"], bool)
    else:
        assert found["commit"] is None and found["modified"] is None
    assert set(found["packages"]) >= {"torch", "transformers", "accelerate"}


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log: blocks of 32 KiB, pieces of (crc, length, kind: whole, first, middle, last)."""
    at, record, block = 0, b"", 32768
    offset = 7  # blocks count from the beginning of the file
    while at + 7 <= len(log):
        left = block - (at + offset) % block
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", log, at)
        piece = log[at + 7 : at + 7 + length]
        at += 7 + length
        record = piece if kind in (1, 2) else record + piece
        if kind in (1, 4):
            yield record


@pytest.mark.slow  # wandb starts a process of its own
def test_wandb_records_metrics_and_config_offline(run, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true", "DISABLE_CODE": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    trainer, recipe = run("wandb")
    wandb.finish()

    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")

    def records() -> list:
        return [
            wandb_internal_pb2.Record.FromString(data)
            for data in leveldb_records(file.read_bytes()[7:])  # after wandb's own mark and version
        ]

    until = time.monotonic() + 60  # wandb's own process writes, and on a busy machine not at once
    while not any(record.WhichOneof("record_type") == "exit" for record in records()) and time.monotonic() < until:
        time.sleep(0.5)
    history, config, name = [], {}, None
    for record in records():
        kind = record.WhichOneof("record_type")
        if kind == "history":
            history.append(
                {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            )
        for update in record.run.config.update if kind == "run" else record.config.update if kind == "config" else ():
            config[update.key or update.nested_key[0]] = json.loads(update.value_json)
        name = record.run.display_name if kind == "run" else name
    logged = [step for step in history if "train/loss" in step]
    assert [step["train/loss"] for step in logged] == losses_of(trainer)
    assert all(f"train/{metric}" in step for step in logged for metric in METRICS)
    assert name == "tiny"
    check_config(config, recipe)


def test_tensorboard_records_metrics_and_config(run, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer, recipe = run("tensorboard")
    (file,) = (tmp_path / "out" / "runs").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses_of(trainer))
    assert all(f"train/{metric}" in events.Tags()["scalars"] for metric in METRICS)
    (text,) = events.Tensors("args/text_summary")
    check_config(json.loads(text.tensor_proto.string_val[0]), recipe)


def test_the_arguments_of_a_run_name_its_recipe_and_its_code(run, tmp_path):
    _, recipe = run("none")
    written = json.loads((tmp_path / "out" / "training_args.json").read_text())
    assert written["recipe"] == [recipe] and written["provenance"] == code_version()
    assert written["training"]["learning_rate"] == 1e-2 and "provenance" not in written["training"]
