"""The quickstart's table: seeds averaged, the lead over random paired question by question."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from llava.eval.runner import TaskResult


@pytest.fixture(scope="module")
def quickstart() -> ModuleType:
    path = Path(__file__).parents[2] / "playground" / "tiny" / "quickstart.py"
    spec = importlib.util.spec_from_file_location("quickstart", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["quickstart"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def result(right: list[int], **more: float) -> TaskResult:
    row = {"accuracy": sum(right) / len(right), "n": len(right), "accuracy_by_group": {}}
    row |= {"compression": "", **more}
    return TaskResult(row, {str(number): float(value) for number, value in enumerate(right)})


def test_table_averages_seeds_and_pairs_questions(quickstart: ModuleType) -> None:
    half, none, most = [1] * 20 + [0] * 20, [0] * 40, [1] * 30 + [0] * 10
    results = {
        ("tiny_vqa", "none", 196, 0): result([1] * 40),
        ("tiny_vqa", "visionzip", 20, 0): result(most),
        ("tiny_vqa", "random", 20, 0): result(half),
        ("tiny_vqa", "random", 20, 1): result(none),
        ("tiny_vqa", "random", 20, 2): result(half),
        ("tiny_pope", "visionzip", 20, 0): result(half, f1=0.5),
    }
    vanilla, random, visionzip = quickstart.table(results)
    assert (vanilla["method"], vanilla["retention"]) == ("none", 1.0)
    assert random["accuracy"] == pytest.approx(1 / 3) and random["seeds"] == 3
    assert visionzip["retention"] == 0.75 and visionzip["pope_f1"] == 0.5
    lead = visionzip["lead_over_random"]
    assert lead["difference"] == pytest.approx(0.75 - 1 / 3)
    assert 0 < lead["low"] < lead["difference"] < lead["high"]


def test_fingerprint_changes_with_contents(quickstart: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("1")
    before = quickstart.fingerprint([file])
    assert quickstart.fingerprint([file]) == before != quickstart.fingerprint([file], extra="x")
    file.write_text("2")
    assert quickstart.fingerprint([file]) != before
