"""Puts a trained small LLaVA into transformers' format, measures it, and lays the figures out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILES = (
    "model.safetensors",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def assemble(finetuned: Path, output: Path, tower_name: str) -> dict[str, Any]:
    """Copies the trained model, without the paths of the machine that it was made on.

    Args:
        finetuned: What the last stage wrote.
        output: The folder of the model.
        tower_name: What the config calls the vision tower.

    Returns:
        The config.
    """
    output.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(finetuned / name, output / name)
    config = json.loads((finetuned / "config.json").read_text())
    config["mm_vision_tower"] = tower_name
    config["vision_config"].pop("_name_or_path", None)
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return config


def measure(
    model: Path, tasks: Sequence[str], budgets: Sequence[str], data: Path, results: Path
) -> list[dict[str, Any]]:
    """Runs `llava.eval` on all budgets and returns its rows; each model's answers get a folder of their own."""
    from llava.model.checkpoints.fingerprint import model_fingerprint

    results /= model_fingerprint(model)
    command = [sys.executable, "-m", "llava.eval", "--model-path", str(model), "--tasks", ",".join(tasks)]
    command += [part for budget in budgets for part in ("--compression", budget)]
    command += ["--data-root", str(data), "--output-dir", str(results), "--batch-size", "50", "--latency-repeats", "0"]
    subprocess.run(command, check=True)
    return json.loads((results / "results.json").read_text())["rows"]


def count_parameters(path: Path) -> int:
    """Counts the numbers in a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118  (not a dict)
