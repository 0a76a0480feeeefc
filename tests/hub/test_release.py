"""The walk of docs/release.md, as a reader would type it, with a Hub on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from llava.hub.card.sample import read_sample
from tests.hub.conftest import ROOT
from tests.hub.hub_server import WRITER, serving
from tests.test_readme import blocks, run


@pytest.mark.slow
def test_the_walk(tmp_path: Path) -> None:
    with serving() as hub:
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": WRITER,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        shown = [
            (language, text.replace("runs/release", str(tmp_path)))
            for language, text in blocks("docs/release.md")
            if not text.startswith("# needs ")
        ]
        assert [language for language, _ in shown] == ["bash", "bash", "python"]
        for language, text in shown[:2]:
            said = run(language, text, **settings)
        assert "all checks passed" in said and "sent 12, already there 0" in said
        export = tmp_path / "tiny-digits-20" / "export"
        data = ModelCard.load(export / "README.md").data
        assert (data.license, data.base_model) == ("apache-2.0", ["me/tiny-digits"])
        (result,) = data.eval_results
        assert result.metric_args == {"compression": "visionzip:17+3", "visual_tokens": 20}
        sample = read_sample(export)
        assert sample is not None and set(sample.answers) == {"visionzip:17+3", "none"}
        assert "off its training condition" in (export / "README.md").read_text()

        sent = hub.files("me/tiny-digits-20")
        assert sent == {file.name: file.read_bytes() for file in export.iterdir() if file.is_file()}
        assert "model.safetensors" in sent and "training_args.json" not in sent
        assert hub.repositories["me/tiny-digits-20"].commits == ["Release tiny-digits-20"]
        assert run(*shown[2], **settings).splitlines()[-1] == "visionzip:17+3"


def test_the_script_hands_every_variable_on(tmp_path: Path) -> None:
    """`python` is replaced by a program that prints its words: what would be run, and in which order."""
    stand_in = tmp_path / "bin" / "python"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\necho "$@"\n')
    stand_in.chmod(0o755)
    given = {"FORMAT": "projector", "BASE": "b", "EXPORT_BASE": "e", "TASKS": "gqa", "LIMIT": "7", "DATA": "d"}
    given |= {"COMPRESSION": "none visionzip:54+10", "VANILLA": "v.json", "PAPER": "table1", "LICENSE": "mit"}
    given |= {"BASE_MODEL": "o/b", "DATASET": "o/d", "DATA_NOTE": "two words", "PRIVATE": "1", "REVISION": "r"}
    given |= {"SAMPLE_IMAGE": "i.png", "SAMPLE_QUESTION": "What is it?", "MESSAGE": "m", "DRY_RUN": "1", "FOLDER": "f"}
    given |= {"OVERWRITE": "1"}
    path = f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}"
    said = run("bash", "bash scripts/release.sh my/run me/name", **given, PATH=path, NPROC="1")
    assert said.splitlines() == [
        "-m llava.hub.export my/run --to projector --output f/export --overwrite --model-base b",
        "-m llava.eval --model-path f/export --model-base e --tasks gqa --compression none "
        "--compression visionzip:54+10 --data-root d --limit 7 --output-dir f/eval",
        "-m llava.hub.card my/run --output f/export --repo me/name --results f/eval/results.json "
        "--vanilla-results v.json --paper table1 --license mit --model-base e --base-model o/b --dataset o/d "
        "--data-note two words --sample-image i.png --sample-question What is it? --overwrite",
        "-m llava.hub.verify f/export --model-base e",
        "-m llava.hub.push f/export --repo me/name --dry-run --private --revision r --message m --model-base e",
    ]
    plain = run("bash", "bash scripts/release.sh my/run me/name", TASKS="", PATH=path, NPROC="1").splitlines()
    assert [line.split()[1] for line in plain] == [f"llava.hub.{name}" for name in ("export", "card", "verify", "push")]
    assert "--results" not in plain[1] and "runs/release/name/export" in plain[3]
