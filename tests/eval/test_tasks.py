"""Tasks: what is loaded, what is left out and named, and the scores worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score, f1_score

from llava.eval.tasks import Sample, TaskDataError, available_tasks, get_task


def write_rows(root: Path, name: str, rows: object) -> None:
    (root / name).write_text(json.dumps(rows), encoding="utf-8")


def sample(number: int, answer: str, group: str = "") -> Sample:
    return Sample(str(number), "?", (), answer, group)


def test_known_tasks_and_an_unknown_one() -> None:
    assert {"tiny_vqa", "tiny_pope"} <= set(available_tasks())
    with pytest.raises(ValueError, match=r"unknown task 'tiny_vga'.*tiny_vqa"):
        get_task("tiny_vga")


def test_bad_rows_are_named_and_left_out(tmp_path: Path) -> None:
    good = {"question_id": 7, "image": "a.png", "text": "which digit?", "answer": "5", "kind": "digit"}
    rows = [good, {"question_id": 8, "text": "x", "answer": "y"}, good, {**good, "question_id": 9, "answer": 3}, "text"]
    write_rows(tmp_path, "eval_vqa.json", rows)
    loaded = get_task("tiny_vqa").load(tmp_path)
    assert loaded.samples == [Sample("7", "which digit?", (tmp_path / "images" / "a.png",), "5", "digit")]
    assert [line.split(": ")[0] for line in loaded.bad_rows] == [
        f"{tmp_path / 'eval_vqa.json'} row {row}" for row in (1, 2, 3, 4)
    ]
    assert "'image'" in loaded.bad_rows[0] and "'7' is there twice" in loaded.bad_rows[1]


@pytest.mark.parametrize("content", [None, "{", '{"a": 1}'])
def test_missing_or_broken_file_says_what_to_do(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "eval_pope.json").write_text(content)
    with pytest.raises(TaskDataError, match=r"eval_pope.json.*make_data.py"):
        get_task("tiny_pope").load(tmp_path)


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("Red", "red", True),
        (" red. ", "red", True),
        ("dark red", "red", False),
        ("", "red", False),
        ("1", "1.", True),
        ("red.", "blue", False),
    ],
)
def test_tiny_vqa_is_exact_match(text: str, answer: str, right: bool) -> None:
    assert get_task("tiny_vqa").is_correct(sample(0, answer), text) == float(right)


def test_accuracy_overall_and_per_kind_counts_the_unanswered() -> None:
    samples = [sample(0, "1", "digit"), sample(1, "2", "digit"), sample(2, "red", "colour"), sample(3, "3", "count")]
    scores = get_task("tiny_vqa").score(samples, {"0": "1", "1": "7", "2": "Red."})
    assert scores == {"accuracy": 0.5, "accuracy_by_group": {"colour": 1.0, "count": 0.0, "digit": 0.5}}


def test_tiny_pope_agrees_with_scikit_learn() -> None:
    truth = ["yes", "yes", "yes", "no", "no", "no", "no", "yes"]
    said = ["Yes.", "no", "Yes, there is one.", "no", "yes", "No", "NO.", "yes"]
    samples = [sample(i, answer) for i, answer in enumerate(truth)]
    scores = get_task("tiny_pope").score(samples, {str(i): text for i, text in enumerate(said)})
    parsed = [text.lower()[: 3 if text.lower().startswith("yes") else 2] for text in said]
    assert scores["accuracy"] == accuracy_score(truth, parsed)
    assert scores["f1"] == pytest.approx(f1_score(truth, parsed, pos_label="yes"))
    assert scores["yes_rate"] == 0.5


def test_tiny_pope_takes_neither_yes_nor_no_for_wrong() -> None:
    task = get_task("tiny_pope")
    assert [task.parse(text) for text in ("yes", " No, none", "nothing", "yesterday", "perhaps", "")] == [
        *("yes", "no", "", "", "", "")
    ]
    assert task.score([sample(0, "no")], {"0": "perhaps"})["accuracy"] == 0.0
