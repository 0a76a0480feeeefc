"""Rules of the benchmarks beyond the paper's against the public scorers, as in test_metrics.py; and `contains`."""

from __future__ import annotations

import pytest

from llava.eval.metrics import chartqa, mmstar, ocrbench, refcoco
from llava.eval.metrics.averages import mean, mean_by_group
from llava.eval.metrics.own_answers import earned
from tests.eval.test_metrics import read


def test_ocrbench() -> None:
    expected = read("ocrbench")
    scored = []
    for text, given, dataset, kind, official, _ in expected["cases"]:
        answers = [given] if isinstance(given, str) else given
        assert ocrbench.is_correct(text, answers, dataset) == official, (text, answers, dataset)
        scored.append(ocrbench.OcrAnswer(float(official), kind))
    scores = ocrbench.ocrbench_scores(scored)
    official = dict(expected["points"])
    assert scores["points"] == official.pop("Final Score") == scores["accuracy"] * len(scored)
    components = scores["points_by_component"]
    assert components == {name: official[name] for name in components} and len(components) == 5
    per_type = len(scored) / 10
    assert {name: share * per_type for name, share in scores["accuracy_by_type"].items()} == pytest.approx(
        {name: points for name, points in official.items() if name != ocrbench.RECOGNITION}
    )


def test_ocrbench_keeps_full_width_letters_which_lmms_eval_folds() -> None:
    differing = [row for row in read("ocrbench")["cases"] if row[4] != row[5]]
    assert differing and all(any(ord(letter) > 0xFF00 for letter in str(row[1])) for row in differing)


def test_chartqa() -> None:
    expected = read("chartqa")
    scored = []
    for text, answer, split, official in expected["cases"]:
        assert chartqa.is_correct(text, answer) == bool(official), (text, answer)
        scored.append((split, float(chartqa.is_correct(text, answer))))
    assert mean(hit for _, hit in scored) == expected["relaxed_overall"]
    assert mean_by_group(scored) == expected["relaxed_by_split"]


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [("95", "100", True), ("94.9", "100", False), ("12", "12%", False), ("0.12", "12%", True), ("0.0", "0", False)],
)
def test_chartqa_by_hand(text: str, answer: str, right: bool) -> None:
    assert chartqa.is_correct(text, answer) == right


def test_mmstar() -> None:
    expected = read("mmstar")
    scored = []
    for text, answer, category, axis, official, _ in expected["cases"]:
        assert mmstar.is_correct(text, answer) == bool(official), (text, answer)
        scored.append(mmstar.StarAnswer(float(official), category, axis))
    scores = mmstar.mmstar_scores(scored)
    assert scores["accuracy"] * len(scored) == pytest.approx(expected["hits"])
    by_category = {name: share * len(scored) / 6 for name, share in scores["accuracy_by_category"].items()}
    assert by_category == pytest.approx(expected["hits_by_category"]) and set(by_category) == set(mmstar.CATEGORIES)
    assert scores["accuracy_by_l2_category"] == expected["accuracy_by_l2_category"]


def test_refcoco() -> None:
    expected = read("refcoco")
    scored = []
    for text, box, width, height, hit, overlap, plain_hit, plain_overlap in expected["cases"]:
        answer = refcoco.BoxAnswer.of(text, refcoco.Target(tuple(box), width, height))
        assert (answer.overlap, answer.plain_overlap) == (overlap, plain_overlap), (text, box, width, height)
        assert (answer.overlap >= refcoco.THRESHOLD, answer.plain_overlap >= refcoco.THRESHOLD) == (hit, plain_hit)
        scored.append(answer)
    scores = refcoco.refcoco_scores(scored)
    for name in ("accuracy", "mean_overlap", "plain_accuracy"):
        assert scores[name] == pytest.approx(expected[name], rel=1e-14)
    assert scores["accuracy"] > scores["plain_accuracy"] and set(scores["accuracy_by_size"]) == {
        *("small", "medium", "large")
    }


def test_a_box_of_llava_counts_from_the_padded_square() -> None:
    """Of a 640 x 480 picture the upper edge is at 80 / 640, of a 480 x 640 one the left edge."""
    whole = (0.0, 0.0, 640.0, 480.0)
    assert refcoco.Target(whole, 640, 480).in_square() == (0.0, 0.125, 1.0, 0.875)
    assert refcoco.Target(whole, 640, 480).in_picture() == (0.0, 0.0, 1.0, 1.0)
    assert refcoco.Target((0.0, 0.0, 480.0, 640.0), 480, 640).in_square() == (0.125, 0.0, 0.875, 1.0)
    # An odd rest is rounded down, as LLaVA's expand2square pastes the picture.
    assert refcoco.Target((0.0, 0.0, 640.0, 427.0), 640, 427).in_square()[1] == 106 / 640
    strip = refcoco.Target((200.0, 0.0, 300.0, 60.0), 640, 480)
    said = refcoco.BoxAnswer.of("[0.31, 0.13, 0.47, 0.22]", strip)
    assert said.overlap > 0.9 and said.plain_overlap == 0.0
    assert (strip.size, refcoco.BoxAnswer.of("none", strip).has_box) == ("medium", False)


def test_a_number_is_contained_only_as_a_whole() -> None:
    texts = {"There are 3.5 of them.": 0, "1,3": 0, "13": 0, "I count 3.": 1, "2, 3": 1, "3": 1}
    assert {text: earned("contains", text, ["3"], {}) for text in texts} == texts


def test_a_letter_is_contained_only_where_it_is_the_whole_text() -> None:
    """`a` is a word of most sentences, so the letter A would be in them all."""
    options = {"A": "red", "B": "dark blue"}
    texts = {"A": 1, "a.": 1, "It is a blue box.": 0, "A red one.": 1, "B": 0}
    assert {text: earned("contains", text, ["A", "red"], options) for text in texts} == texts
