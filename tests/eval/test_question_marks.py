"""Tables say of each row how its method reads the question."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from llava.eval.command import main
from llava.eval.report.command import main as report

TINY = Path(__file__).resolve().parents[2] / "playground" / "tiny"
NAMES = {
    "visionzip:10+6": "visionzip:10+6",
    "cdpruner:16": "cdpruner:16, text-free",
    "mmtok:16": "mmtok:16, not multi-turn safe",
    "mmtok:16,text=false": "mmtok:16,text=false",
    "uniform:16|fastv:12": "uniform:16|fastv:12, not multi-turn safe",
}


def test_tables_of_eval_and_report_name_them(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model-path", str(TINY / "model"), "--tasks", "tiny_vqa", "--data-root", str(tiny_data)]
    flags += ["--limit", "2", "--latency-repeats", "0", "--output-dir", str(tmp_path), "--device", "cpu"]
    for budget in ("none", *NAMES):
        flags += ["--compression", budget]
    main(flags)
    printed = capsys.readouterr().out.replace("\\|", "|")
    report([str(tmp_path)])
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8").replace("\\|", "|")
    latex = (tmp_path / "report.tex").read_text(encoding="utf-8").replace(r"\textbar{}", "|")
    with (tmp_path / "report.csv").open(encoding="utf-8", newline="") as file:
        labels = {row["compression"]: row["label"] for row in csv.DictReader(file)}
    assert labels == {"none": "vanilla", **NAMES}
    for name in NAMES.values():
        assert f"| {name} " in printed and f"| {name} " in markdown and f"{name} & 1" in latex
