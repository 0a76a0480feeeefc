"""`llava compare` from end to end: what is measured, going on, two processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from llava.eval.answers_key import compression_file_name
from llava.eval.compare.command import main
from llava.eval.tasks import get_task
from llava.inference import Inference, Question
from llava.inference.latency import compare_latency
from llava.model.configuration import CompressionConfig
from llava.model.flops import kv_bytes
from tests.eval.compare.conftest import (
    ROOT,
    TINY,
)

# ----- The engine --------------------------------------------------------------


def test_the_choice_of_tokens_is_measured_alone_and_the_cache_is_what_flops_say(tiny_data: Path) -> None:
    inference = Inference.load(TINY, device="cpu")
    sample = get_task("tiny_vqa").load(tiny_data).samples[0]
    budgets = [None, "visionzip:41+8", "uniform:20", "pyramiddrop:98"]
    costs = compare_latency(inference, Question(sample.prompt, sample.images), budgets, warmup=1, repeats=3)
    assert [cost.rows_read for cost in costs] == [196, 49, 20, 98]
    assert [cost.selector_ms is None for cost in costs] == [True, False, False, True]
    assert all(0 < cost.selector_ms < cost.vision_ms for cost in costs[1:3])
    config, text = inference.model.config, costs[0].prompt_tokens - 196
    # What is cut off inside the language model is not in the cache, though it is in the prompt.
    assert costs[3].prompt_tokens == costs[0].prompt_tokens
    lengths = [text + rows for rows in (196, 49, 20, 98)]
    assert [cost.kv_bytes for cost in costs] == [kv_bytes(config, length, 4) for length in lengths]


def run(output: Path, tiny_data: Path, *more: str) -> int:
    words = ["--model-path", str(TINY), "--methods", "visionzip,merge=mean", "--budgets", "20", "--seeds", "1"]
    words += ["--tasks", "tiny_vqa,tiny_pope", "--data-root", str(tiny_data), "--limit", "8", "--device", "cpu"]
    return main([*words, "--output-dir", str(output), "--latency-repeats", "1", "--resamples", "50", *more])


def test_a_comparison_runs_and_goes_on(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert run(output, tiny_data) == 0
    first = (output / "results.json").read_text()
    rows = json.loads(first)["rows"]
    every = ["none", "visionzip:17+3", "random:20", "uniform:20", "visionzip:17+3,merge=mean"]
    assert {row["compression"] for row in rows} >= set(every)
    assert len({json.dumps(row["timing"]) for row in rows}) == 1 and all(row["tuned_for"] == "" for row in rows)
    assert all((row["selector_ms"] is None) == (row["compression"] == "none") for row in rows)
    for ending in ("md", "csv", "tex", "svg"):
        assert (output / f"compare.{ending}").stat().st_size > 0
    answers = {path: path.read_bytes() for path in output.rglob("*.jsonl")}
    # As a kill leaves it: one file of answers cut in the middle of a line, and no row of its results.
    cut = output / "answers" / "tiny_vqa" / "visionzip_17+3.jsonl"
    cut.write_bytes(cut.read_bytes()[:-30])
    table = (output / "compare.md").read_text().split("## Cost of one question")[0]
    assert run(output, tiny_data) == 0
    assert {path: path.read_bytes() for path in output.rglob("*.jsonl")} == answers
    assert (output / "compare.md").read_text().split("## Cost of one question")[0] == table
    again = (output / "results.json").read_text()
    assert run(output, tiny_data) == 0  # nothing is asked and nothing measured any more
    same = ("vision_ms", "selector_ms", "prefill_ms", "seconds")
    kept = [[[row[name] for name in same] for row in json.loads(text)["rows"]] for text in (again,)]
    assert kept == [[[row[name] for name in same] for row in json.loads((output / "results.json").read_text())["rows"]]]
    capsys.readouterr()
    assert run(output, tiny_data, "--tables-only") == 0 and "## Scores" in capsys.readouterr().out


@pytest.mark.slow
def test_an_adaptive_budget_is_timed_where_it_keeps_its_mean(tiny_data: Path, tmp_path: Path) -> None:
    adaptive = "coverage:30,adaptive=gain,threshold=0.0114,floor=5"
    file = tmp_path / "budget.json"
    file.write_text(json.dumps({"compression": adaptive, "wanted_mean": 20}))
    assert run(tmp_path, tiny_data, "--calibrated", str(file)) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    row = next(row for row in rows if row["compression"] == adaptive and row["task"] == "tiny_vqa")
    answers = tmp_path / "answers" / "tiny_vqa" / f"{compression_file_name(CompressionConfig.parse(adaptive))}.jsonl"
    kept = {line["question_id"]: line["visual_tokens"] for line in map(json.loads, answers.open()) if "text" in line}
    timed = kept[row["timing"]["sample"]]
    assert len(set(kept.values())) > 1 and row["tokens"] == pytest.approx(statistics.mean(kept.values()))
    assert abs(timed - row["tokens"]) == min(abs(count - row["tokens"]) for count in kept.values())
    assert row["rows_read"] == timed and row["timing"]["adaptive"] == {
        adaptive: {"tokens": timed, "mean": row["tokens"]}
    }
    said = f"`{adaptive}` keeps {timed} tokens there, {round(row['tokens'], 1):g} on average."
    assert said in (tmp_path / "compare.md").read_text()


def test_two_processes_write_one_comparison(tiny_data: Path, tmp_path: Path) -> None:
    words = ["--model-path", str(TINY), "--methods", "divprune", "--budgets", "20", "--seeds", "1", "--resamples", "50"]
    words += ["--tasks", "tiny_vqa", "--data-root", str(tiny_data), "--device", "cpu", "--latency-repeats", "1"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "llava.eval.compare"]
    command = [sys.executable, *launch, *words, "--output-dir", str(tmp_path / "two")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("budgets of each task") == done.stdout.count("compare.md") == 1
    assert main([*words, "--output-dir", str(tmp_path / "one")]) == 0
    answers = [
        {path.name: path.read_bytes() for path in sorted((tmp_path / name).rglob("*.jsonl"))} for name in ("one", "two")
    ]
    assert answers[0] == answers[1] and len(answers[0]) == 7
