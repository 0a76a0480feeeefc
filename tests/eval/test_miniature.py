"""The whole suite on miniature benchmarks, from their own files and from the Hub's tables, by the tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llava.eval.command import main
from llava.eval.judge import command as judge
from llava.eval.metrics import mme
from llava.eval.report import command as report
from llava.eval.sources.parquet_source import ParquetSource
from llava.eval.sources.table import TABLES
from llava.eval.tasks import JudgedTask, Sample, available_tasks, get_task
from llava.inference import GenerationOptions, Inference, Question
from tests.eval.judge_server import judging
from tests.eval.test_sources import as_seen

TINY = Path(__file__).parents[2] / "playground" / "tiny"
IN_MINIATURE = [
    name for name in available_tasks() if not name.startswith("crowded") and get_task(name).video_frames is None
]
BUDGETS = ("none", "visionzip:41+8")
FLOOR = 0.9
COSTS = ("seconds", "vision_ms", "selector_ms", "prefill_ms", "kv_bytes", "rows_read")
OF_A_RUN = (*COSTS, "data", "data_root", "retention", "commit")

pytest.importorskip("sklearn")


def make(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TINY / "make_benchmarks.py"), "--output", str(folder / "local")]
    return subprocess.run([*command, "--parquet", str(folder / "hub"), *more], capture_output=True, text=True)


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniature")
    made = make(folder)
    assert made.returncode == 0, made.stderr
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def reference(sample: Sample) -> str:
    return str(sample.answer or sample.details["answers"][0])


@pytest.mark.slow
def test_the_same_bytes_again_and_what_is_not_ours_stays(miniature: Path, tmp_path: Path) -> None:
    assert make(tmp_path, "--seed", "1").returncode == 0
    other = contents(tmp_path)
    assert make(tmp_path).returncode == 0
    again = contents(tmp_path)
    assert again == contents(miniature) and again != other
    (tmp_path / "local" / ".miniature").unlink()
    refused = make(tmp_path)
    assert refused.returncode == 1 and "has not written" in refused.stderr and contents(tmp_path / "local")


@pytest.mark.parametrize("name", IN_MINIATURE)
def test_both_sources_hold_the_same_questions_and_right_answers(name: str, miniature: Path, tmp_path: Path) -> None:
    task = get_task(name)
    loaded = task.load(miniature / "local")
    assert not loaded.bad_rows and len(loaded.samples) >= 6
    if name in TABLES:
        root, _ = ParquetSource(miniature / "hub", tmp_path).root_for(name)
        assert as_seen(task.load(root).samples) == as_seen(loaded.samples)
    if task.has_answers and not isinstance(task, JudgedTask):
        scores = task.score(loaded.samples, {sample.sample_id: reference(sample) for sample in loaded.samples})
        groups = {sample.group for sample in loaded.samples}
        best = 200 * len(groups) if name == "mme" else 1
        assert scores[task.main_score] == best
        if name == "mme":
            assert groups & {*mme.PERCEPTION} and groups & {*mme.COGNITION}


@pytest.mark.parametrize("name", ["vqav2_val", "vizwiz_val", "textvqa", "textvqa_no_ocr"])
def test_perfect_answers_in_capitals_are_perfect(name: str, miniature: Path) -> None:
    task = get_task(name)
    samples = task.load(miniature / "local").samples
    scores = task.score(samples, {sample.sample_id: f"{reference(sample).upper()}." for sample in samples})
    assert scores["accuracy"] == 1.0
    # The rule that does not normalise where all ten agree stands beside, under its own name.
    assert name != "vqav2_val" or float(str(scores["raw_accuracy"])) < 0.5


def test_mmmu_has_rows_with_several_images(miniature: Path) -> None:
    shown = [len(sample.images) for sample in get_task("mmmu_val").load(miniature / "local").samples]
    assert set(shown) == {1, 2}


def share(truth: str, said: str) -> float:
    """How many of the words that should be there are there."""
    words = said.replace(",", " ").split()
    wanted = truth.replace(",", " ").replace("<AND>", " ").split()
    return sum(word in words for word in wanted) / len(wanted)


def grade(question: str) -> str:
    """A judge that counts words, in the form in which either benchmark wants its grade."""
    if "[Assistant 1]" in question:
        first, second = (
            question.split(f"[Assistant {n}]\n")[1].split(f"\n\n[End of Assistant {n}]")[0] for n in (1, 2)
        )
        return f"10 {max(1, round(10 * share(first, second)))}\nWords were counted."
    _, truth, said = question.split("\n")[-1].removesuffix(" | ").split(" | ")
    return str(round(share(truth, said), 1))


def run_all(
    miniature: Path, output: Path, judge_url: str, budgets: Sequence[str], *source: str, repeats: int = 0
) -> dict[tuple[str, str], dict[str, Any]]:
    """Runs and grades all tasks under some budgets; their rows."""
    data = ["--data-root", str(miniature / "local"), *source]
    asked = [part for budget in budgets for part in ("--compression", budget)]
    flags = ["--model-path", str(TINY / "model"), "--tasks", "all", "--device", "cpu", "--batch-size", "64"]
    assert main([*flags, *asked, *data, "--latency-repeats", str(repeats), "--output-dir", str(output)]) == 0
    assert judge.main([str(output), "--judge-url", judge_url, "--judge-model", "words", *data]) == 0
    rows = json.loads((output / "results.json").read_text())["rows"]
    return {(row["task"], row["compression"]): row for row in rows}


def score_of_questions_alone(miniature: Path, name: str, inference: Inference) -> float:
    """The main score where the first line is asked alone, as the model was trained to be asked."""
    task = get_task(name)
    samples = task.load(miniature / "local").samples
    questions = [Question(sample.prompt.split("\n")[0], tuple(sample.images)) for sample in samples]
    answers = inference.ask(questions, batch_size=64, options=GenerationOptions(max_new_tokens=16))
    score = task.score(samples, {samples[answer.index].sample_id: answer.text for answer in answers})[task.main_score]
    assert isinstance(score, float)
    return score


@pytest.mark.slow
def test_the_whole_suite(miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_EVAL_CACHE", str(tmp_path / "cache"))
    with judging() as server:
        server.reply = grade
        local = run_all(miniature, tmp_path / "local", server.url, BUDGETS, repeats=1)
        source = ["--data-source", str(miniature / "hub")]
        parquet = run_all(miniature, tmp_path / "parquet", server.url, BUDGETS[1:], *source)
    assert set(local) == {(name, budget) for name in IN_MINIATURE for budget in BUDGETS}
    for (name, budget), row in local.items():
        assert row["n"] >= 6 and not row["errors"] and not row["bad_rows"] and not row["truncated"]
        assert (row["main_score"] in row) == get_task(name).has_answers
        assert name != "gqa" or row["tokens"] == (196 if budget == "none" else 49)

    assert {name for (name, _), row in parquet.items() if row["data"]} == set(TABLES)
    assert set(parquet) == {(name, BUDGETS[1]) for name in IN_MINIATURE}
    for key, row in parquet.items():
        assert {n: v for n, v in row.items() if n not in OF_A_RUN} == {
            n: v for n, v in local[key].items() if n not in OF_A_RUN
        }
    answers = [
        {name: text.partition(b"\n")[2] for name, text in contents(tmp_path / place / "answers").items()}
        for place in ("local", "parquet")  # the first lines differ: they say where the data are from
    ]
    assert len(answers[1]) >= len(IN_MINIATURE) and answers[1].items() <= answers[0].items()

    # Tasks whose prompt is the question alone; the model does not know what the others put below it.
    for name, best in (("tiny_vqa", 1), ("tiny_pope", 1), ("mmvet", 100), ("llava_bench", 100)):
        row = local[name, "none"]
        assert row[row["main_score"]] >= FLOOR * best, name
    inference = Inference.load(TINY / "model", device="cpu")
    for name in ("gqa", "pope", "textvqa_no_ocr", "vqav2_val"):
        assert score_of_questions_alone(miniature, name, inference) >= FLOOR, name

    assert report.main([str(tmp_path / "local"), "--resamples", "100", "--no-picture"]) == 0
    text = (tmp_path / "local" / "report.md").read_text()
    assert all(word in text for word in ("visionzip", "mmvet", "mmmu_val"))
