"""Benchmarks from the Hub's tables give the samples that the published files give; the Hub's cache is enough."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llava.eval.answers_key import prompts_fingerprint
from llava.eval.command import main
from llava.eval.sources.parquet_source import ParquetSource
from llava.eval.sources.table import NAMESPACES, TABLES
from llava.eval.sources.video_sets import VIDEO_SETS
from llava.eval.tasks import Sample, TaskDataError, available_tasks, get_task
from tests.eval.hub_tables import BUILDERS, write_table

REVISION = "0123456789abcdef0123456789abcdef01234567"


def as_seen(samples: list[Sample]) -> list[Any]:
    """What a run depends on: all but the folders, and the images by what they hold."""
    return [
        (
            *(s.sample_id, s.prompt, s.answer, s.group, {**s.details, "submission_ids": ""}),
            *(image if isinstance(image, bytes) else (image.name, image.read_bytes()) for image in s.images),
        )
        for s in samples
    ]


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_tables_give_the_samples_of_the_published_files(name: str, tmp_path: Path) -> None:
    hub, local = tmp_path / "hub", tmp_path / "local"
    BUILDERS[name](hub, local)
    root, about = ParquetSource(hub, tmp_path / "cache").root_for(name)
    expected, loaded = get_task(name).load(local), get_task(name).load(root)
    assert as_seen(loaded.samples) == as_seen(expected.samples) and not loaded.bad_rows
    assert prompts_fingerprint(loaded.samples) == prompts_fingerprint(expected.samples)
    assert Path(about[0]["dataset"]).parent == hub and about[0]["revision"]


def test_every_benchmark_has_its_tables() -> None:
    ours = {"crowded_dev", "crowded_test", "tiny_pope", "tiny_vqa"}
    assert set(TABLES) == set(BUILDERS) and not set(TABLES) & set(VIDEO_SETS)
    assert set(TABLES) | set(VIDEO_SETS) == set(available_tasks()) - ours
    assert set(VIDEO_SETS) == {name for name in available_tasks() if get_task(name).video_frames is not None}


def test_written_once_and_again_when_the_tables_change(tmp_path: Path) -> None:
    hub, source = tmp_path / "hub", ParquetSource(tmp_path / "hub", tmp_path / "cache")
    BUILDERS["pope"](hub, tmp_path / "local")
    first, _ = source.root_for("pope")
    marked = first / "pope" / "coco" / "coco_pope_random.json"
    before = marked.stat().st_mtime_ns
    assert source.root_for("pope")[0] == first and marked.stat().st_mtime_ns == before
    (first / "written.json").unlink()  # as after a kill
    assert source.root_for("pope")[0] == first and marked.stat().st_mtime_ns > before
    BUILDERS["pope"](hub, tmp_path / "local")
    assert source.root_for("pope")[0] != first


def test_another_schema_and_missing_files_are_told(tmp_path: Path) -> None:
    source = ParquetSource(tmp_path, tmp_path / "cache")
    with pytest.raises(
        TaskDataError, match=r"no \*\*/test-\*\.parquet in any of .*lmms-lab/POPE.*lmms-lab-encoder/POPE"
    ):
        source.root_for("pope")
    path = write_table(tmp_path, "lmms-lab-encoder/POPE", "test", [{"question_id": "1", "question": "?"}])
    with pytest.raises(TaskDataError, match=rf"{path} has no column 'answer'"):
        source.root_for("pope")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(TaskDataError, match=rf"{path} is not a readable parquet file"):
        source.root_for("pope")
    with pytest.raises(ValueError, match="neither 'local', 'hub', nor a folder"):
        ParquetSource.parse(str(tmp_path / "nowhere"))


def cached(hub_cache: Path, dataset: str, built: Path) -> None:
    """Puts a dataset where huggingface_hub keeps what it has downloaded."""
    folder = hub_cache / f"datasets--{dataset.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(REVISION)
    (folder / "snapshots").mkdir()
    built.rename(folder / "snapshots" / REVISION)


SCRIPT = """
import sys, json
from pathlib import Path
from llava.eval.sources.parquet_source import ParquetSource
from llava.eval.tasks import get_task, TaskDataError
source = ParquetSource(None, Path(sys.argv[1]))
for name in ("pope", "mmmu_val", "mme"):
    try:
        root, about = source.root_for(name)
        print(json.dumps([name, about, len(get_task(name).load(root).samples)]))
    except TaskDataError as error:
        print(json.dumps([name, str(error)]))
"""


def test_the_hubs_cache_is_enough_offline(tmp_path: Path) -> None:
    """Both name spaces and the publisher's own dataset; what is not cached is told, and nothing is tried."""
    for name, table, dataset in (
        ("pope", "POPE", f"{NAMESPACES[1]}/POPE"),
        ("mmmu_val", "MMMU", "MMMU/MMMU"),
    ):
        BUILDERS[name](tmp_path / "built", tmp_path / "local")
        cached(tmp_path / "hf" / "hub", dataset, tmp_path / "built" / table)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    environment.pop("HF_HUB_CACHE", None)
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "cache")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    pope, mmmu, mme = (json.loads(line) for line in said.splitlines() if line.startswith("["))
    assert pope == ["pope", [{"dataset": "lmms-lab-encoder/POPE", "revision": REVISION}], 6]
    assert mmmu == ["mmmu_val", [{"dataset": "MMMU/MMMU", "revision": REVISION}], 1]
    assert "the Hub does not give it: lmms-lab/MME: " in mme[1] and "lmms-lab-encoder/MME: " in mme[1]


def test_the_command_line_takes_a_folder_and_says_what_was_used(
    oracle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    BUILDERS["pope"](tmp_path / "hub", tmp_path / "local")
    monkeypatch.setenv("LLAVA_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(type(get_task("pope")), "max_new_tokens", 4)
    flags = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--tasks", "pope", "--device", "cpu"]
    flags += ["--latency-repeats", "0"]
    assert main([*flags, "--data-source", str(tmp_path / "hub"), "--output-dir", str(tmp_path / "a")]) == 0
    assert main([*flags, "--data-root", str(tmp_path / "local"), "--output-dir", str(tmp_path / "b")]) == 0
    rows = [json.loads((tmp_path / out / "results.json").read_text())["rows"][0] for out in "ab"]
    assert rows[0]["data"][0]["dataset"] == str(tmp_path / "hub" / "POPE") and rows[1]["data"] is None
    assert rows[1]["data_root"] == str(tmp_path / "local") and rows[0]["data_root"].startswith(str(tmp_path / "cache"))
    files = [path.read_text().split("\n") for out in "ab" for path in (tmp_path / out).rglob("*.jsonl")]
    assert len(files) == 2 and files[0][1:] == files[1][1:]
    keys = [json.loads(lines[0])["run_key"] for lines in files]
    assert [key.pop("data") for key in keys] == [rows[0]["data"], "local"] and keys[0] == keys[1]
    assert main([*flags, "--data-root", str(tmp_path / "local"), "--output-dir", str(tmp_path / "a")]) == 1
    assert "holds answers made otherwise (data: [{'dataset'" in capsys.readouterr().err, "the images may be others"
