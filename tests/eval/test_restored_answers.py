"""`positions=restore` under `llava eval`, `--exact`, `llava compare`, and in batches of questions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from llava.eval.command import main
from llava.eval.compare.command import main as compare
from llava.eval.kits.likelihood import likelihoods
from llava.inference import GenerationOptions, Inference, Question
from tests.eval.test_prefixes import without_sharing

MODEL = Path(__file__).resolve().parents[2] / "playground" / "tiny" / "model"
BUDGETS = ["divprune:20,positions=restore", "holov:20,positions=restore"]
SHORT = GenerationOptions(max_new_tokens=5)


@pytest.mark.parametrize("budget", BUDGETS)
def test_batches_answer_as_one_prompt_does(tiny_data, budget):
    inference = Inference.load(MODEL, device="cpu", torch_dtype="float32", compression=budget)
    first, second = (str(path) for path in sorted((tiny_data / "images").glob("eval_*.png"))[:2])
    questions = [
        Question("Which digit is in the northwest?", (first,)),
        Question("Is there a 7? Answer yes or no, please.", (first,)),
        Question("Which digit is in the northwest?", (second, first)),
        Question("Hello there"),
    ]
    alone = [without_sharing(inference).ask_one(q.text, *q.images, options=SHORT) for q in questions]
    together = sorted(inference.ask(questions, batch_size=4, options=SHORT), key=lambda answer: answer.index)
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert [answer.visual_tokens for answer in together] == [20, 20, 40, 0]


@pytest.mark.parametrize(
    "budget", ["divprune:20,positions=restore", "coverage:20,strength=0,positions=restore", "coverage:49", "adaptive"]
)
def test_what_is_said_is_what_is_likeliest(tiny_data, budget):
    """An answer is scored as it is generated: each of its tokens is the greedy one, alone and in a batch."""
    adaptive = "coverage:49,adaptive=cover,threshold=0.85"
    budget = adaptive if budget == "adaptive" else budget
    inference = Inference.load(MODEL, device="cpu", torch_dtype="float32", compression=budget)
    pictures = [str(path) for path in sorted((tiny_data / "images").glob("eval_*.png"))]
    questions = [Question("Describe the picture.", (picture,)) for picture in pictures]
    said = {answer.index: answer for answer in inference.ask(questions, options=GenerationOptions(max_new_tokens=60))}
    pairs = [
        (questions[index], answer.text) for index, answer in said.items() if answer.text and len(answer.token_ids) < 60
    ]
    assert len(pairs) > 2 and any(" " in text for _, text in pairs)
    if budget == adaptive:
        assert len({answer.visual_tokens for answer in said.values()}) > 1
    together, alone = (dict(likelihoods(inference, pairs, batch_size=size)) for size in (5, 1))
    for index, one in alone.items():
        assert one.is_greedy and together[index].is_greedy
        assert together[index].log_probability == pytest.approx(one.log_probability, abs=1e-4)


def test_evaluations(tiny_data, tmp_path):
    """In batches and one by one: the same answers, and as many tokens as the budget says."""
    found = {}
    for name, more in (("batched", []), ("exact", ["--exact"])):
        flags = [flag for budget in BUDGETS for flag in ("--compression", budget)]
        flags += ["--limit", "6", "--device", "cpu", "--output-dir", str(tmp_path / name), *more]
        main(["--model-path", str(MODEL), "--tasks", "tiny_vqa", "--data-root", str(tiny_data), *flags])
        rows = json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8"))["rows"]
        assert [(row["compression"], row["tokens"]) for row in rows] == [(budget, 20) for budget in BUDGETS]
        files = sorted((tmp_path / name / "answers").rglob("*.jsonl"))
        rows = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
        found[name] = [{row["question_id"]: row["text"] for row in each if "text" in row} for each in rows]
    assert found["batched"] == found["exact"] and [len(each) for each in found["exact"]] == [6, 6]


def test_a_comparison(tiny_data, tmp_path):
    words = ["--model-path", str(MODEL), "--tasks", "tiny_vqa", "--limit", "4", "--device", "cpu", "--budgets", "20"]
    words += ["--methods", "divprune,divprune,positions=restore,tome,positions=restore", "--data-root", str(tiny_data)]
    assert compare([*words, "--output-dir", str(tmp_path), "--latency-repeats", "1", "--resamples", "50"]) == 0
    with (tmp_path / "compare.csv").open(encoding="utf-8") as file:
        rows = {row["compression"]: row for row in csv.DictReader(file)}
    assert rows["divprune:20,positions=restore"]["servable"] == "no" and rows["divprune:20"]["servable"] == "yes"
    said = (tmp_path / "compare.md").read_text(encoding="utf-8")
    assert "tome keeps other things than patches" in said
