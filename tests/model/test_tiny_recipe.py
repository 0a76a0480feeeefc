"""The recipe of the embedded model, from nothing to the card, at toy size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava import load_pretrained_model

ROOT = Path(__file__).parents[2]
SIZES = {
    "TOWER_SCALE": "0.003",
    "LLM_PLAN": "questions:2,talks:2",
    "TRAIN_SAMPLES": "64",
    "ALIGN_SAMPLES": "64",
    "EPOCHS": "1",
    "SCENES": "8",
    "VQA": "20",
    "POPE": "10",
}


def _recipe(folder, **variables):
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "WORK": str(folder / "work"),
        "DATA": str(folder / "data"),
        "MODEL": str(folder / "model"),
        **SIZES,
        **variables,
    }
    command = ["bash", str(ROOT / "playground" / "tiny" / "pretrain.sh")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.slow
def test_the_recipe_runs_to_its_card_and_skips_what_is_done(tmp_path):
    _recipe(tmp_path)
    weights = tmp_path / "model" / "model.safetensors"
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("*.safetensors")}
    before = weights.read_bytes()
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Held-out questions: 20 of five kinds" in card and "| 196 | none |" in card
    load_pretrained_model(tmp_path / "model", device="cpu")

    _recipe(tmp_path)
    assert {file: file.stat().st_mtime_ns for file in made} == made
    assert weights.read_bytes() == before


@pytest.mark.slow
def test_a_tower_without_cls_is_trained_by_the_same_recipe(tmp_path):
    _recipe(tmp_path, TOWER_KIND="siglip")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "SigLIP, without a CLS token" in card and "| 20 | visionzip |" in card and "| 20 | pool |" in card
    model = load_pretrained_model(tmp_path / "model", device="cpu")[1]
    assert model.config.vision_config.model_type == "siglip_vision_model"
