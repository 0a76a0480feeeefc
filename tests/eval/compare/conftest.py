"""What the tests of comparisons share: a run of few questions whose every answer is written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from llava.eval.answers import AnswerFile
from llava.eval.answers_key import AnswersKey, compression_file_name
from llava.eval.compare.grid import Grid, Refused
from llava.eval.compare.intervals import add_intervals
from llava.eval.compare.table import Comparison, build_comparison
from llava.eval.data_place import DataPlace
from llava.eval.tasks import get_task
from llava.model.configuration import CompressionConfig
from tests.eval import layout

ROOT = Path(__file__).parents[3]
TINY = ROOT / "playground" / "tiny" / "model"
BUDGETS = ("none", "visionzip:54+10", "random:64", "random:64,seed=1", "random:64,seed=2", "uniform:64")
GRID = Grid((64,), dict.fromkeys(BUDGETS[1:], 64), [], [Refused("uniform", 600, "it is too many")])
# Who answers which of GQA's four questions rightly; each question is about an image of its own.
RIGHT = {
    "none": (1, 1, 1, 1),
    "visionzip:54+10": (1, 1, 1, 0),
    "random:64": (1, 1, 0, 0),
    "random:64,seed=1": (1, 0, 0, 0),
    "random:64,seed=2": (1, 1, 1, 0),
    "uniform:64": (0, 1, 0, 0),
}
# What is said to POPE's four questions, in each split; the truth is yes, yes, no, no.
SAID = {
    "none": ("yes", "yes", "no", "no"),
    "visionzip:54+10": ("yes", "yes", "yes", "no"),
    "random:64": ("yes", "no", "no", "no"),
    "random:64,seed=1": ("yes", "no", "no", "no"),
    "random:64,seed=2": ("yes", "no", "no", "no"),
    "uniform:64": ("yes", "no", "yes", "no"),
}
TIMES = {"none": (40.0, 60.0, None), "visionzip:54+10": (42.0, 20.0, 1.5), "uniform:64": (40.0, 22.0, 0.25)}
TIMES |= {name: (41.0, 20.0 + n, 0.5 + n) for n, name in enumerate(BUDGETS[2:5])}


def gqa_rows(count: int) -> list[dict[str, Any]]:
    types = {"structural": "query", "semantic": "obj"}
    return [{"question": f"Q{n}?", "answer": "a", "imageId": f"i{n}", "types": types} for n in range(count)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    layout.write_gqa(root, gqa_rows(4))
    labels = ("yes", "yes", "no", "no")
    rows = [{"question_id": n, "image": f"{n}.jpg", "text": "T?", "label": label} for n, label in enumerate(labels)]
    layout.write_pope(root, rows)
    return root


def texts_of(task: str, budget: str, count: int) -> Sequence[str]:
    """What is said to each question."""
    if task == "gqa":
        return ["a" if right else "z" for right in RIGHT[budget]]
    return list(SAID[budget]) * (count // 4)


def write_run(
    folder: Path,
    data: Path,
    budgets: Sequence[str] = BUDGETS,
    says: Callable[[str, str, int], Sequence[str]] = texts_of,
    **more: Any,
) -> Path:
    """An output folder as the runner leaves it."""
    rows = []
    for name in ("gqa", "pope"):
        task = get_task(name)
        samples = task.load(data).samples
        for budget in budgets:
            compression = CompressionConfig.parse(budget)
            key = AnswersKey(name, "fp", compression and compression.to_dict(), "v1", "p", {}, "torch.float16")
            said = {s.sample_id: text for s, text in zip(samples, says(name, budget, len(samples)), strict=True)}
            with AnswerFile(folder / "answers" / name / f"{compression_file_name(compression)}.jsonl", key) as file:
                for sample_id, text in said.items():
                    file.append(sample_id, text)
            vision, prefill, own = TIMES[budget]
            row = {"task": name, "method": budget.split(":")[0], "compression": budget, "n": len(samples)}
            row |= {"tokens": 64 if compression else 576, "prompts": "p", "conv_mode": "v1", "dtype": "torch.float16"}
            row |= {"generation": {}, "errors": [], "bad_rows": [], "truncated": [], "main_score": task.main_score}
            row |= {"vision_ms": vision, "prefill_ms": prefill, "selector_ms": own, "kv_bytes": 2**20, "rows_read": 64}
            row |= {"timing": TIMING, "tuned_for": ""} | more
            rows.append(row | task.score(samples, said))
    layout.write_json(folder / "results.json", {"run": {"model": "fp"}, "rows": rows})
    return folder


TIMING = {"budgets": list(BUDGETS), "task": "gqa", "sample": "0", "repeats": 11, "device": "d", "dtype": "f"}


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "untuned", data)


def compared(*folders: Path, data: Path, resamples: int = 0) -> Comparison:
    comparison = build_comparison(list(folders), GRID)
    add_intervals(comparison, DataPlace(data), resamples)
    return comparison


def entries(comparison: Comparison) -> Mapping[str, Any]:
    return {entry.label: entry for entry in comparison.entries}
