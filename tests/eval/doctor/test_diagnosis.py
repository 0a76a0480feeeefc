"""The doctor on a run written by hand: what flips, by type, size and down-sampling, and how sure that is."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from llava.eval.doctor.down_sampling import down_sampling_budget, down_sampling_row
from llava.eval.doctor.words import findings
from llava.eval.report.command import main as report
from llava.eval.tasks import get_task
from tests.eval import layout
from tests.eval.doctor.conftest import BUDGETS, case_of, counts, examined, said_by_hand, write_run


def test_every_flip_is_counted_by_type_and_by_size_of_the_object(run: Path, data: Path) -> None:
    diagnosis = examined(run, data)
    assert [budget.compression for budget in diagnosis.budgets] == ["visionzip:54+10"], "down-sampling is the yardstick"
    case = case_of(diagnosis, "tiny_vqa")
    assert counts(case.whole) == (8, 2, 1, 2, 3)
    assert (case.before, case.after) == (6 / 8, 5 / 8) and case.retention.value == pytest.approx(5 / 6)
    assert (case.whole.before, case.whole.after, case.whole.change.value) == (0.75, 0.625, -0.125)
    by_value = {(part.sort, part.value): part for part in case.slices}
    assert {key: counts(part) for key, part in by_value.items()} == {
        ("type", "colour"): (3, 0, 1, 1, 1),
        ("type", "count"): (3, 2, 0, 0, 1),
        ("type", "where"): (2, 0, 0, 1, 1),
        ("size of the object", "small (below 0.33 %)"): (2, 1, 0, 0, 1),
        ("size of the object", "medium (0.33 to 3 %)"): (2, 1, 1, 0, 0),
        ("size of the object", "large (3 % and more)"): (4, 0, 0, 2, 2),
    }
    assert by_value["type", "count"].change.value == pytest.approx(-2 / 3)
    assert [(flip.kind, flip.sample.sample_id) for flip in case.flips if flip.kind != "reworded"] == [
        *(("lost", key) for key in ("0", "2")),
        ("gained", "3"),
    ]


def test_flips_are_those_of_the_report(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = run / "answers" / "tiny_vqa"
    files = [str(answers / "none.jsonl"), str(answers / "visionzip_54+10.jsonl")]
    assert report(["--diff", *files, "--data-root", str(data)]) == 0
    assert "2 better in A\n1 better in B\n2 the same score, other words\n3 the same words" in capsys.readouterr().out


def test_what_down_sampling_gets_wrong_stands_apart(run: Path, data: Path) -> None:
    down = case_of(examined(run, data), "tiny_vqa").down_sampling
    assert down is not None and down.compression == "downsample:64" and down.tokens == 64
    # All tokens are right on 0, 1, 2, 4, 5 and 7, and down-sampling on the last four of these.
    assert (down.hard.n, down.hard.right) == (2, 1) and (down.easy.n, down.easy.right) == (4, 3)
    assert down.hard.share is not None and down.hard.share.value == 0.5
    without = write_run(run.parent / "without", data, {t: dict(list(b.items())[:2]) for t, b in said_by_hand().items()})
    diagnosis = examined(without, data)
    assert case_of(diagnosis, "tiny_vqa").down_sampling is None
    wanted = f"--tasks tiny_pope,tiny_vqa --compression downsample:64 --output-dir {without}"
    assert diagnosis.advice == [f"llava eval --model-path MODEL {wanted}"]


def test_the_nearest_number_that_makes_a_grid_is_named() -> None:
    assert down_sampling_budget("visionzip:83+15") == "downsample:98"  # 7 x 14
    assert down_sampling_budget("random:23") == "downsample:20"  # 23, 22 and 21 make no grid within 2:1
    assert down_sampling_budget("random:3") is None  # 1 x 3 is longer than 2:1, and 2 are a third fewer
    assert down_sampling_budget("fastv:64") is None, "of a whole image, however many tiles it has"
    row = {"task": "gqa", "compression": "fastv:64", "tokens": 576, "n": 9}
    rows = [row | {"compression": f"downsample:{tokens}", "tokens": tokens} for tokens in (49, 60, 64, 72)]
    found = down_sampling_row(rows, row)
    assert found is not None and found["tokens"] == 64
    found = down_sampling_row(rows, row | {"compression": "random:70", "tokens": 70})
    assert found is not None and found["tokens"] == 64, "the most tokens that are not more"
    assert down_sampling_row(rows, row | {"compression": "random:70", "tokens": 70, "n": 8}) is None, "other questions"
    assert down_sampling_row(rows, row | {"compression": "random:100", "tokens": 100}) is None


def test_precision_and_recall_are_apart(run: Path, data: Path) -> None:
    shifts = {shift.name: shift for shift in case_of(examined(run, data), "tiny_pope").shifts}
    # Split a: all tokens say yes to 0 and 1, of three that are; the budget to 0, 2 and 3. Split b: all tokens to 5, 6
    # and 7, of two that are; the budget to none.
    assert (shifts["precision"].before, shifts["precision"].after) == pytest.approx(((1 + 2 / 3) / 2, (2 / 3 + 0) / 2))
    assert (shifts["recall"].before, shifts["recall"].after) == pytest.approx(((2 / 3 + 1) / 2, (2 / 3 + 0) / 2))
    assert (shifts["yes said"].before, shifts["yes said"].after) == pytest.approx((0.5, 0.3))
    assert shifts["recall"].change.value == pytest.approx(1 / 3 - 5 / 6)
    assert case_of(examined(run, data), "tiny_vqa").shifts == [], "not a task of yes and no"


def test_popes_own_scores_are_met(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    labels = [
        {
            "question_id": n,
            "image": f"{n % 9}.jpg",
            "text": "Is there a cat in the image?",
            "label": ["yes", "no"][n % 2],
        }
        for n in range(60)
    ]
    layout.write_pope(tmp_path, labels)
    samples = get_task("pope").load(tmp_path).samples
    said = {
        budget: {s.sample_id: s.answer if rng.random() < skill else "No, it is not." for s in samples}
        for budget, skill in (("none", 0.9), ("visionzip:54+10", 0.6))
    }
    run = write_run(tmp_path / "run", tmp_path, {"pope": said})
    rows = json.loads((run / "results.json").read_text())["rows"]
    for shift in case_of(examined(run, tmp_path), "pope").shifts:
        name = "yes_ratio" if shift.name == "yes said" else shift.name
        assert (shift.before, shift.after) == pytest.approx((rows[0][name], rows[1][name])), name


def test_intervals_are_as_wide_as_theory_has_them(tmp_path: Path) -> None:
    rng, count = np.random.default_rng(2), 1200
    rows = [
        {"question_id": n, "image": f"{n}.png", "text": "?", "answer": ("yes", "no")[n % 2], "split": "one"}
        for n in range(count)
    ]
    layout.write_json(tmp_path / "eval_pope.json", rows)
    other = {"yes": "no", "no": "yes"}
    said = {
        budget: {str(n): r["answer"] if rng.random() < skill else other[r["answer"]] for n, r in enumerate(rows)}
        for budget, skill in zip(BUDGETS, (0.95, 0.85, 0.6), strict=True)
    }
    case = case_of(
        examined(write_run(tmp_path / "run", tmp_path, {"tiny_pope": said}), tmp_path, resamples=2000), "tiny_pope"
    )
    right = np.array([[said[budget][str(n)] == r["answer"] for n, r in enumerate(rows)] for budget in BUDGETS], float)
    half = 1.96 * (right[1] - right[0]).std(ddof=1) / math.sqrt(count)
    change = case.whole.change
    assert change.low == pytest.approx(change.value - half, abs=0.003)
    assert change.high == pytest.approx(change.value + half, abs=0.003)
    # Of a ratio of means, by the delta method.
    ratio = right[1].mean() / right[0].mean()
    half = 1.96 * (right[1] - ratio * right[0]).std(ddof=1) / math.sqrt(count) / right[0].mean()
    assert case.retention.value == pytest.approx(ratio)
    assert case.retention.low == pytest.approx(ratio - half, abs=0.003)
    down = case.down_sampling
    assert down is not None and down.hard.share is not None and down.hard.n == ((right[0] > 0) & (right[2] == 0)).sum()
    share = down.hard.share
    assert share.low == pytest.approx(
        share.value - 1.96 * math.sqrt(share.value * (1 - share.value) / down.hard.n), abs=0.01
    )
    # Recall of yes, of both sides over the same 600 questions.
    asked = right[:, ::2]
    half = 1.96 * (asked[1] - asked[0]).std(ddof=1) / math.sqrt(asked.shape[1])
    recall = next(shift for shift in case.shifts if shift.name == "recall")
    assert recall.change.value == pytest.approx((asked[1] - asked[0]).mean())
    assert recall.change.low == pytest.approx(recall.change.value - half, abs=0.006)
    assert any("recall of yes" in line for line in findings(examined(tmp_path / "run", tmp_path).budgets[0]))


def test_findings_name_what_fell_and_nothing_that_chance_explains(run: Path, data: Path, tmp_path: Path) -> None:
    assert not any("type" in line for line in findings(examined(run, data).budgets[0])), "of fewer than 20 questions"
    rows = [
        {"question_id": n, "image": f"{n}.png", "text": "?", "answer": "1", "kind": ("count", "colour")[n % 2]}
        for n in range(100)
    ]
    layout.write_json(tmp_path / "eval_vqa.json", rows)
    said = {"none": dict.fromkeys(map(str, range(100)), "1")}
    said["random:64"] = {str(n): "2" if n % 2 == 0 and n < 30 else "1" for n in range(100)}
    budget = examined(write_run(tmp_path / "own", tmp_path, {"tiny_vqa": said}), tmp_path).budgets[0]
    assert len(findings(budget)) == 1
    assert re.fullmatch(
        r"tiny_vqa, type 'count': 100\.0 % -> 70\.0 % \(-30\.0 \[-\d+\.\d, -\d+\.\d\]\); 15 lost, 0 gained of 50",
        findings(budget)[0],
    )


def test_a_whole_task_is_named_where_its_types_are_small(tmp_path: Path) -> None:
    rows = [
        {"question_id": n, "image": f"{n}.png", "text": "?", "answer": "1", "kind": f"type {n % 5}"} for n in range(40)
    ]
    layout.write_json(tmp_path / "eval_vqa.json", rows)
    said = {"none": dict.fromkeys(map(str, range(40)), "1")}
    said["random:64"] = {str(n): "12"[n < 10] for n in range(40)}
    budget = examined(write_run(tmp_path / "run", tmp_path, {"tiny_vqa": said}), tmp_path).budgets[0]
    assert len(findings(budget)) == 1
    assert findings(budget)[0].startswith("tiny_vqa: 100.0 % -> 75.0 % (-25.0 [")


def test_of_one_picture_nothing_is_known_for_sure(tmp_path: Path) -> None:
    rows = [
        {"question_id": n, "image": "0.png", "text": "?", "answer": ("yes", "no")[n % 2], "split": "a"}
        for n in range(40)
    ]
    layout.write_json(tmp_path / "eval_pope.json", rows)
    said = {"none": {str(n): row["answer"] for n, row in enumerate(rows)}}
    said["random:64"] = dict.fromkeys(said["none"], "no")
    case = case_of(examined(write_run(tmp_path / "run", tmp_path, {"tiny_pope": said}), tmp_path), "tiny_pope")
    assert case.whole.change.value == -0.5 and case.whole.change.low is None
    assert case.shifts and all(shift.change.low is None for shift in case.shifts)


def test_down_sampling_is_examined_where_it_is_asked_for(run: Path, data: Path) -> None:
    diagnosis = examined(run, data, budgets=["downsample:64"])
    assert [budget.compression for budget in diagnosis.budgets] == ["downsample:64"]
    assert case_of(diagnosis, "tiny_vqa").down_sampling is None and diagnosis.advice == []
