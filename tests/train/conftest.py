from __future__ import annotations

import json
import os
import socket
import sys
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


def launch_environment(**more) -> dict[str, str]:
    """For a launcher: this environment's commands first, no launcher around it, threads that sleep."""
    outer = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {
        **outer,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{outer['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        **{name: str(value) for name, value in more.items()},
    }


def free_port() -> int:
    """For a launcher whose own default is one number, which another test may have taken."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def losses_of(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def unrolled(oracle_dir: Path, folder: Path, data: str, order: list[int]) -> Path:
    """A file with the samples of a recorded run in the order in which it took them."""
    records = json.loads((oracle_dir / data).read_text())
    file = folder / f"unrolled_{data}"
    file.write_text(json.dumps([records[index] for index in order]))
    return file
