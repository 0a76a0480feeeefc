"""Which rows a report compares, and which of them its means are over."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava.eval.report.table import build_table
from llava.eval.results import read_results, write_results


@pytest.mark.parametrize("field", ["references", "prompts", "conv_mode", "dtype", "generation", "n"])
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


def test_high_image_means_take_either_variant(tmp_path: Path) -> None:
    row = {"n": 10, "tokens": 576, "accuracy": 0.8}
    tasks = ("gqa", "textvqa_no_ocr", "sqa_full")
    rows = [row | {"task": task, "compression": budget} for task in tasks for budget in ("none", "visionzip:54+10")]
    write_results(tmp_path / "results.json", [row | {"method": "-"} for row in rows], "fp")
    assert build_table([tmp_path]).high_image_tasks == ["gqa", "textvqa_no_ocr"]
