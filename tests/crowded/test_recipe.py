"""The recipe of a crowded world, from nothing to a tuned projector's row in the table, at toy size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava import load_pretrained_model
from llava.train.arguments import parse_arguments
from playground.crowded.ablation import VARIANTS

ROOT = Path(__file__).parents[2]
SIZES = {
    "TOWER_STEPS": "3",
    "LLM_PLAN": "captions:1,questions:1,talks:2",
    "TRAIN_SAMPLES": "64",
    "ALIGN_SAMPLES": "64",
    "EPOCHS": "1",
    "SCENES": "4",
    "QUESTIONS": "14",
    "PROCESSES": "1",  # training in two is for tests/train
}


def run(*command: str, **more: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, **more}, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_the_recipe_runs_to_its_card_and_a_tuned_row(tmp_path: Path) -> None:
    places = {"WORK": str(tmp_path / "work"), "DATA": str(tmp_path / "data"), "MODEL": str(tmp_path / "model")}
    recipe = ("bash", str(ROOT / "playground" / "crowded" / "pretrain.sh"))
    run(*recipe, PYTHON=sys.executable, WORLD="second", **places, **SIZES)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "14 questions of seven kinds" in card and "| 196 | none |" in card and "| lost at 20 tokens |" in card
    load_pretrained_model(tmp_path / "model", device="cpu")
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("*.safetensors")}
    run(*recipe, PYTHON=sys.executable, WORLD="second", **places, **SIZES)
    assert {file: file.stat().st_mtime_ns for file in made} == made

    where = ["--world", "second", "--data", places["DATA"], "--model", places["MODEL"]]
    variants = ["--variants", "coverage-distilled", "--seeds", "1"]
    ablation = [sys.executable, "-m", "playground.crowded.ablation", *where, *variants]
    ablation += ["--out", str(tmp_path / "out"), "--results", str(tmp_path / "results")]
    run(*ablation)
    [row] = [json.loads(path.read_text()) for path in sorted((tmp_path / "results").glob("*.json"))]
    assert row["name"] == "coverage-distilled (tuned):20"
    assert len(row["answers"]) == 14 and row["tokens"]["mean"] == 20
    assert run(*ablation).count("already there") == 1
    table = [sys.executable, "-m", "playground.crowded.table", "--split", "dev", *where[:4]]
    assert "| 20 | coverage-distilled (tuned):20 | 1 |" in run(*table, "--results", str(tmp_path / "results"))


@pytest.mark.parametrize("name", VARIANTS)
def test_training_takes_the_flags_of_every_variant(name: str, tmp_path: Path) -> None:
    """What each does is for tests/train; the ablation gives them as they stand here."""
    variant = VARIANTS[name]
    words = [part for flag, value in variant.flags.items() for part in (f"--{flag}", value)]
    made = ["--model_name_or_path", "m", "--stage", "projector", "--data_path", "d.json", "--output_dir", str(tmp_path)]
    training = parse_arguments([*made, "--compression", variant.compression, "--use_cpu", "True", *words]).training
    assert {flag: str(getattr(training, flag)) for flag in variant.flags} == dict(variant.flags)
