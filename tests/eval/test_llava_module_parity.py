"""Scorers and converters against LLaVA's own: what its scripts printed and wrote on about 300 generated answers each.

`tests/fixtures/llava_modules/inputs` is ours; `expected` is from haotian-liu/LLaVA's scripts of the same names.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from llava.eval import eval_pope, eval_science_qa, eval_textvqa

ROOT = Path(__file__).parents[1] / "fixtures" / "llava_modules"
INPUTS, EXPECTED = ROOT / "inputs", ROOT / "expected"
SCRIPTS = Path(__file__).parents[2] / "scripts"
ANSWERS = INPUTS / "vq" / "answers" / "dev" / "c" / "merge.jsonl"


def convert(name: str, *words: object) -> None:
    runpy.run_path(str(SCRIPTS / name))["main"]([str(word) for word in words])


def same_json(path: Path, name: str) -> None:
    assert json.loads(path.read_text()) == json.loads((EXPECTED / name).read_text())


def test_pope(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--annotation-dir", str(INPUTS / "coco"), "--question-file", str(INPUTS / "pope_questions.jsonl")]
    eval_pope.main([*words, "--result-file", str(INPUTS / "pope_answers.jsonl")])

    def blocks(text: str) -> list[str]:
        return sorted(text.split("====\n"))  # LLaVA's go in the order of the file system

    assert blocks(capsys.readouterr().out) == blocks((EXPECTED / "pope.txt").read_text())


def test_science_qa(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--base-dir", str(INPUTS / "sqa"), "--result-file", str(INPUTS / "sqa_answers.jsonl")]
    outputs = ["--output-file", str(tmp_path / "a.json"), "--output-result", str(tmp_path / "r.json")]
    eval_science_qa.main([*words, *outputs])
    assert capsys.readouterr().out == (EXPECTED / "sqa.txt").read_text()
    assert (tmp_path / "a.json").read_text() == (EXPECTED / "sqa_analyses.json").read_text()
    assert (tmp_path / "r.json").read_text() == (EXPECTED / "sqa_result.json").read_text()


def test_textvqa(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--annotation-file", str(INPUTS / "textvqa.json")]
    eval_textvqa.main([*words, "--result-file", str(INPUTS / "textvqa_answers.jsonl")])
    assert capsys.readouterr().out == (EXPECTED / "textvqa.txt").read_text()


def test_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--annotation-file", INPUTS / "seed.json", "--result-file", INPUTS / "seed_answers.jsonl"]
    convert("convert_seed_for_submission.py", *words, "--result-upload-file", tmp_path / "seed.jsonl")
    assert capsys.readouterr().out == (EXPECTED / "seed.txt").read_text()
    assert (tmp_path / "seed.jsonl").read_text() == (EXPECTED / "seed.jsonl").read_text()


@pytest.mark.parametrize("name", ["gqa", "mmvet"])
def test_converters_for_other_tools(name: str, tmp_path: Path) -> None:
    convert(f"convert_{name}_for_eval.py", "--src", ANSWERS, "--dst", tmp_path / "x.json")
    same_json(tmp_path / "x.json", f"{name}.json")


def test_converters_for_evalai(tmp_path: Path) -> None:
    words: list[Any] = ["--annotation-file", INPUTS / "vizwiz.jsonl", "--result-file", ANSWERS]
    convert("convert_vizwiz_for_submission.py", *words, "--result-upload-file", tmp_path / "vizwiz.json")
    same_json(tmp_path / "vizwiz.json", "vizwiz.json")
    (tmp_path / "answers").symlink_to(INPUTS / "vq" / "answers")
    every = "llava_vqav2_mscoco_test2015.jsonl"
    (tmp_path / every).symlink_to(INPUTS / "vq" / every)
    convert("convert_vqav2_for_submission.py", "--dir", tmp_path, "--split", "dev", "--ckpt", "c")
    same_json(tmp_path / "answers_upload" / "dev" / "c.json", "vqav2.json")
