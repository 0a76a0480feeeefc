from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def flags(oracle_dir, tmp_path):
    """Flags of a short run on the CPU; keywords change or add some."""

    def flags(**changes) -> list[str]:
        given = {
            "model_name_or_path": oracle_dir / "tiny-llava-v1.5",
            "version": "v1",
            "data_path": oracle_dir / "train_tiny.json",
            "image_folder": oracle_dir / "images",
            "output_dir": tmp_path / "out",
            "per_device_train_batch_size": 1,
            "learning_rate": "1e-2",
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            **changes,
        }
        return [word for name, value in given.items() for word in (f"--{name}", str(value))]

    return flags


def losses_of(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def unrolled(oracle_dir: Path, folder: Path, data: str, order: list[int]) -> Path:
    """A file with the samples of a recorded run in the order in which it took them."""
    records = json.loads((oracle_dir / data).read_text())
    file = folder / f"unrolled_{data}"
    file.write_text(json.dumps([records[index] for index in order]))
    return file
