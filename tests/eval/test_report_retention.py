"""Which rows a report compares, and which of them its means are over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llava.eval.report.files import to_markdown
from llava.eval.report.table import build_table
from llava.eval.results import read_results, write_results
from llava.eval.tasks import get_task
from llava.results.paper import paper_tables


@pytest.mark.parametrize("field", ["references", "prompts", "conv_mode", "dtype", "generation", "n", "rules"])
def test_a_report_compares_what_results_json_compares(tmp_path: Path, field: str) -> None:
    row = {"task": "gqa", "method": "none", "compression": "none", "n": 10, "tokens": 576, "accuracy": 0.8}
    rows = [row, row | {"compression": "visionzip:54+10", "accuracy": 0.6}]
    retentions = []
    for name in ("alike", "otherwise"):
        write_results(tmp_path / name / "results.json", rows, "fp")
        stored = [row["retention"] for row in read_results(tmp_path / name / "results.json")]
        table = build_table([tmp_path / name])
        shown = table.lines[1].cells["gqa"].retention
        assert stored == [1.0, pytest.approx(shown / 100) if shown else None]
        retentions.append(shown)
        rows[1][field] = 9 if field == "n" else "other"
    assert retentions == [pytest.approx(75), None]
    assert f"visionzip:54+10, GQA: no retention, vanilla differs in {field}" in table.notes


@pytest.mark.parametrize(
    ("n", "note"), [(19_242, None), (17_990, "SEED-Bench.json of 2023-11-30"), (99, "99 questions")]
)
@pytest.mark.parametrize("facts", [get_task("seed").facts().to_json(), {"published_sizes": [17_990]}, None])
def test_the_later_seed_never_stands_beside_the_papers_figure_without_a_note(
    tmp_path: Path, facts: dict[str, Any] | None, n: int, note: str | None
) -> None:
    # Rows of before the sizes were right say 17,990, or nothing.
    row = {"task": "seed", "method": "none", "compression": "none", "n": n, "tokens": 576, "accuracy": 0.6}
    if facts is not None:
        row["task_facts"] = {"paper_column": "SEED", "scale": "share"} | facts
    write_results(tmp_path / "results.json", [row], "fp")
    text = to_markdown(build_table([tmp_path], paper_tables()["table1"]))
    assert (note is None) == ("19242" not in text) == ("60.0*" not in text)
    assert note is None or note in text.partition("## Beside the paper")[2]


def test_high_image_means_take_either_variant(tmp_path: Path) -> None:
    row = {"n": 10, "tokens": 576, "accuracy": 0.8}
    tasks = ("gqa", "textvqa_no_ocr", "sqa_full")
    rows = [row | {"task": task, "compression": budget} for task in tasks for budget in ("none", "visionzip:54+10")]
    write_results(tmp_path / "results.json", [row | {"method": "-"} for row in rows], "fp")
    assert build_table([tmp_path]).high_image_tasks == ["gqa", "textvqa_no_ocr"]
