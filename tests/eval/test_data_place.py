"""Where the judge and the report find a benchmark's data."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from llava.eval.data_place import DataPlace, add_data_flags
from llava.eval.tasks import TaskDataError, get_task
from tests.eval.hub_tables import BUILDERS


def place(*words: str) -> DataPlace:
    parser = argparse.ArgumentParser()
    add_data_flags(parser)
    return DataPlace.of(parser.parse_args(words))


def test_flags_then_environment_then_where_it_was_asked_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAVA_EVAL_DATA", raising=False)
    monkeypatch.setenv("LLAVA_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    hub, local, empty = tmp_path / "hub", tmp_path / "local", tmp_path / "empty"
    empty.mkdir()
    BUILDERS["pope"](hub, local)
    task = get_task("pope")
    expected = [sample.prompt for sample in task.load(local).samples]

    def prompts(where: DataPlace, answered_from: Path | None = None) -> list[str]:
        return [sample.prompt for sample in where.load(task, answered_from and str(answered_from)).samples]

    assert prompts(place("--data-root", str(local)), empty) == expected
    assert prompts(place("--data-source", str(hub)), empty) == expected
    assert prompts(place(), local) == expected
    with pytest.raises(TaskDataError, match="playground/data/eval/pope"):
        prompts(place(), tmp_path / "gone")
    with pytest.raises(TaskDataError, match="empty/pope"):
        prompts(place("--data-root", str(empty)), local)
    monkeypatch.setenv("LLAVA_EVAL_DATA", str(local))
    assert prompts(place(), empty) == expected
    with pytest.raises(ValueError, match="neither 'local', 'hub', nor a folder"):
        place("--data-source", "nowhere")
