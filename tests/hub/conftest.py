"""What the tests of releases share: a short but real run, and results of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava.hub.card.make_card import make_card
from llava.hub.card.metadata import Publication
from llava.hub.push import main

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "playground" / "tiny" / "model"


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory) -> Path:
    from llava.train.train import train

    folder = tmp_path_factory.mktemp("hub") / "run"
    oracle = ROOT / "tests" / "fixtures" / "oracle"
    flags = {
        "model_name_or_path": TINY,
        "stage": "projector",
        "compression": "visionzip:41+8",
        "data_path": oracle / "train_tiny.json",
        "image_folder": oracle / "images",
        "data_fraction": 0.6,
        "output_dir": folder,
        "max_steps": 2,
        "per_device_train_batch_size": 1,
        "learning_rate": "1e-3",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    train([word for name, value in flags.items() for word in (f"--{name}", str(value))])
    return folder


@pytest.fixture
def run(trained_once, tmp_path) -> Path:
    """A copy of the run for each test."""
    return Path(shutil.copytree(trained_once, tmp_path / "run"))


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """The Hub is not asked: huggingface_hub refuses at once, as with HF_HUB_OFFLINE=1 before it is imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def row(task: str, compression: str, value: float, score: str = "accuracy", **more) -> dict:
    """A row of results.json."""
    return {
        "task": task,
        "method": compression.partition(":")[0],
        "compression": compression,
        "tokens": 576 if compression == "none" else 64,
        "main_score": score,
        score: value,
        "n": 100,
        "prompts": "p",
        "conv_mode": "vicuna_v1",
        "dtype": "torch.float16",
        "generation": {"temperature": 0.0},
        "data": None,
        **more,
    }


def write_results(file: Path, fingerprint: str, *rows: dict) -> Path:
    file.write_text(json.dumps({"run": {"model": fingerprint, "commit": "abc123"}, "rows": rows}))
    return file


COMPLETE = Publication(repo="me/tiny", license="apache-2.0", base_models=["me/digits"], data_note="Digits.")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "release"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("README.md"))
    make_card(folder, publication=COMPLETE)
    return folder


@pytest.fixture
def release(made_once, tmp_path) -> Path:
    return Path(shutil.copytree(made_once, tmp_path / "release"))


def push(folder: Path, *flags: str) -> int:
    return main([str(folder), "--repo", "me/tiny", *flags])
