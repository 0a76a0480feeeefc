"""An evaluation whose folder, model and data were moved goes on and is reported as if they had stayed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llava.eval.command import main
from llava.eval.report.command import main as report
from llava.inference import Answer, Inference, Question


def test_nothing_is_asked_again(
    oracle_dir: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[int] = []
    ask = Inference.ask

    def counted(self: Inference, questions: list[Question], **options: Any) -> Iterator[Answer]:
        asked.append(len(questions))
        return ask(self, questions, **options)

    def words(place: Path, limit: int) -> list[str]:
        where = ["--model-path", place / "model", "--data-root", place / "data", "--output-dir", place / "scores"]
        what = ["--tasks", "tiny_vqa", "--compression", "none", "--limit", limit, "--latency-repeats", 0]
        return [str(word) for word in (*where, *what, "--device", "cpu")]

    monkeypatch.setattr(Inference, "ask", counted)
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(oracle_dir / "tiny-llava-v1.5", here / "model")
    shutil.copytree(tiny_data, here / "data")
    assert main(words(here, 4)) == 0
    [before] = json.loads((here / "scores" / "results.json").read_text())["rows"]
    here.rename(there)
    assert main(words(there, 4)) == 0
    [after] = json.loads((there / "scores" / "results.json").read_text())["rows"]
    assert asked == [4] and after == {**before, "data_root": str(there / "data")}
    assert main(words(there, 6)) == 0
    assert asked == [4, 2]
    capsys.readouterr()
    assert report([str(there / "scores"), "--data-root", str(there / "data"), "--no-picture"]) == 0
    told = capsys.readouterr().out
    assert "tiny_vqa" in told and str(here) not in told
