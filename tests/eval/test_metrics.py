"""The scoring rules against the public scorers, on predictions made to be awkward.

`tests/fixtures/scorers/*.json` hold inputs and what those scorers gave for them; each file names its scorers and their
revision. Figures are compared exactly unless the scorer rounds.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava.eval.metrics import gqa, llava_bench, mmbench, mme, mmmu, mmvet, pope, scienceqa, seed
from llava.eval.metrics.answer_text import evalai_answer, normalise_words, strip_punctuation
from llava.eval.metrics.averages import mean
from llava.eval.metrics.vqa import leave_one_out, normalise, raw_vqa_accuracy, vqa_accuracy

FIXTURES = Path(__file__).parents[1] / "fixtures" / "scorers"


def read(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))


def ten(answers: str | list[str]) -> list[str]:
    return [answers] * 10 if isinstance(answers, str) else answers


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.json")), ids=lambda path: path.stem)
def test_fixtures_hold_at_least_300_predictions(path: Path) -> None:
    expected = json.loads(path.read_text(encoding="utf-8"))
    assert sum(len(value) for key, value in expected.items() if key.endswith("cases")) >= 300


def test_answers_are_normalised_as_by_the_vqa_and_the_m4c_evaluators() -> None:
    for text, vqa, evalai in read("answer_text")["cases"]:
        assert normalise_words(strip_punctuation(text)) == vqa, repr(text)
        assert evalai_answer(text) == evalai, repr(text)


def test_vqa_accuracy_of_the_raw_text() -> None:
    expected = read("vqa")
    for prediction, answers, official, lmms_eval in expected["cases"]:
        assert raw_vqa_accuracy(prediction, ten(answers)) == official, (prediction, answers)
        always = leave_one_out(normalise(prediction), [normalise(answer) for answer in ten(answers)])
        assert math.isclose(always, lmms_eval, abs_tol=1e-12), (prediction, answers)


def test_vqa_accuracy_normalises_first() -> None:
    # LLaVA submits what EvalAI's processor made of its answers, so that capitals and periods cost nothing.
    for said in ("Yes", "YES.", "yes"):
        assert vqa_accuracy(said, ["yes"] * 10) == 1.0
    assert raw_vqa_accuracy("Yes", ["yes"] * 10) == 0.0
    assert vqa_accuracy("The T-shirt", ["t-shirt"] * 10) == vqa_accuracy("Two", ["two"] * 10) == 1.0
    # lmms-eval, which normalises as well, says the same of all but a "YES,YES".
    differing = [
        row for row in read("vqa")["cases"] if not math.isclose(vqa_accuracy(row[0], ten(row[1])), row[3], abs_tol=1e-9)
    ]
    assert [row[0] for row in differing] == ["YES,YES"]


def test_lmms_eval_and_the_official_vqa_scorer_differ_only_on_unanimous_answers() -> None:
    differing = [row for row in read("vqa")["cases"] if not math.isclose(row[2], row[3], abs_tol=1e-9)]
    assert differing
    assert all(len({" ".join(answer.split()) for answer in ten(row[1])}) == 1 for row in differing)


def test_textvqa_accuracy() -> None:
    expected = read("textvqa")
    scores = []
    for prediction, answers, official, lmms_eval in expected["cases"]:
        scores.append(vqa_accuracy(prediction, ten(answers)))
        assert scores[-1] == official, (prediction, answers)
        assert math.isclose(scores[-1], lmms_eval, abs_tol=1e-12)
    assert mean(scores) == expected["accuracy"]


def test_gqa() -> None:
    expected = read("gqa")
    answers = []
    for prediction, answer, structural, semantic, official, lmms_eval in expected["cases"]:
        assert gqa.is_correct(prediction, answer) == official, (prediction, answer)
        assert gqa.is_correct_in_lmms_eval(prediction, answer) == lmms_eval, (prediction, answer)
        answers.append(gqa.GqaAnswer(float(gqa.is_correct(prediction, answer)), structural, semantic))
    scores = gqa.gqa_scores(answers)
    official = expected["scores"]
    percent = {name: scores[name] * 100 for name in ("accuracy", "binary", "open")}
    assert percent == {name: official[name] for name in percent}
    for kind in ("structural", "semantic"):
        by_type = scores[f"accuracy_by_{kind}_type"]
        assert {name: score * 100 for name, score in by_type.items()} == official[kind]
    assert gqa.gqa_scores([gqa.GqaAnswer(1.0)]) == {"accuracy": 1.0}


def test_pope() -> None:
    expected = read("pope")
    by_split: dict[str, list[tuple[str, str]]] = {}
    for split, text, label, parsed in expected["cases"]:
        assert ("yes" if pope.says_yes(text) else "no") == parsed, repr(text)
        by_split.setdefault(split, []).append((text, label))
    for split, official in expected["scores"].items():
        counts = pope.count(by_split[split])
        *scores, (tp, fp, tn, fn) = official.values()
        assert counts == pope.PopeScores(tp, fp, tn, fn)
        assert list(counts.to_dict().values()) == scores
    scores = pope.pope_scores(by_split)
    assert scores["f1"] == mean(expected["scores"][split]["f1"] for split in sorted(by_split))
    assert scores["f1_by_split"] == {split: expected["scores"][split]["f1"] for split in by_split}
    assert pope.count([]).f1 == 0.0 and pope.count([("no", "yes")]).precision == 0.0


def test_mme() -> None:
    expected = read("mme")
    for text, official, _ in expected["parse_cases"]:
        assert mme.parse(text) == official, repr(text)
    answers = []
    for category, image, label, text, parsed in expected["cases"]:
        assert mme.parse(text) == parsed, repr(text)
        answers.append(mme.MmeAnswer(category, image, label, text))
    random.Random(0).shuffle(answers)  # pairs are found by their image and not by their place
    scores = mme.mme_scores(answers)
    assert scores["score_by_category"] == pytest.approx(expected["score_by_category"], rel=1e-14)
    assert scores["perception"] == pytest.approx(expected["perception"], rel=1e-14)
    assert scores["cognition"] == pytest.approx(expected["cognition"], rel=1e-14)
    assert scores["total"] == scores["perception"] + scores["cognition"]


def test_mme_says_which_category_or_image_is_wrong() -> None:
    answer = mme.MmeAnswer("count", "count/1.png", "Yes", "yes")
    with pytest.raises(ValueError, match=r"no category \['counting'\]"):
        mme.mme_scores([mme.MmeAnswer("counting", "", "Yes", "")])
    with pytest.raises(ValueError, match=r"count has 3 of 'count/1\.png'"):
        mme.mme_scores([answer] * 3)
    half = mme.mme_scores([answer])
    assert half["accuracy_by_category"] == {"count": 1.0} and half["accuracy_plus_by_category"] == {"count": 0.0}


def test_scienceqa() -> None:
    expected = read("scienceqa")
    answers, answered = [], []
    for text, choices, answer, has_image, has_text, subject, grade, index, _ in expected["cases"]:
        predicted = scienceqa.predicted_index(text or "", choices)
        assert predicted == index, (text, choices)
        row = scienceqa.ScienceAnswer(
            float(predicted == answer), bool(has_image), bool(has_text), f"{subject} science", grade
        )
        answers.append(row)
        answered += [row] if text is not None else []
    scores = scienceqa.scienceqa_scores(answers)
    assert scores["accuracy"] * 100 == pytest.approx(expected["accuracy_percent"], rel=1e-14)
    # LLaVA's script leaves a question without an answer out of the image subset; it counts as wrong here.
    image_accuracy = scienceqa.scienceqa_scores(answered)["img_accuracy"]
    assert f"IMG-Accuracy: {image_accuracy:.2%}" in expected["img_line"]
    official = expected["categories_percent"]
    names = {"has_text": "text", "has_image": "image"} | dict.fromkeys(("natural", "social", "language", "no_context"))
    names |= dict.fromkeys(("grade_1_6", "grade_7_12"))
    for name, own in names.items():
        assert f"{scores['accuracy_by_category'][own or name]:.2%}" == f"{official[f'acc_{name}']}%"


def mmbench_answers(rows: list[list[Any]]) -> list[mmbench.MmbenchAnswer]:
    return [
        mmbench.MmbenchAnswer(index, answer, text, dict(zip("ABCD", options, strict=False)), category, l2_category)
        for index, answer, text, options, category, l2_category, _ in rows
    ]


def test_mmbench() -> None:
    expected = read("mmbench")
    assert expected["scorers"].startswith(mmbench.RULES)
    for text, options, inferred in expected["infer_cases"]:
        assert mmbench.infer(text, dict(zip("ABCD", options, strict=False))) == inferred, (text, options)
    answers = mmbench_answers(expected["cases"])
    for answer, row in zip(answers, expected["cases"], strict=True):
        assert mmbench.infer(answer.text, answer.options) == row[-1], (answer.text, answer.options)
    random.Random(0).shuffle(answers)
    scores = mmbench.mmbench_scores(answers)
    for name in ("circular", "vanilla"):
        official = dict(expected[name])
        assert scores[f"{name}_accuracy"] == pytest.approx(official.pop("Overall"), rel=1e-14)
        own = scores[f"{name}_accuracy_by_category"] | scores[f"{name}_accuracy_by_l2_category"]
        assert own == pytest.approx(official, rel=1e-14)
    assert scores["circular_accuracy"] < scores["vanilla_accuracy"]
    unrotated = mmbench.mmbench_scores(answer for answer in answers if answer.index < mmbench.ROTATION)
    assert unrotated["circular_accuracy"] == unrotated["vanilla_accuracy"] == scores["vanilla_accuracy"]


def test_mmmu_choices_with_the_official_generator() -> None:
    draw = random.Random(42)
    for text, options, letter, drawn in read("mmmu")["choice_cases"]:
        assert mmmu.choose(text, options, draw) == (letter, bool(drawn)), (text, options)


def test_mmmu_draws_depend_on_the_question_alone() -> None:
    options = ["red", "green", "blue"]
    draws = {name: mmmu.choose("?", options, mmmu.generator(name))[0] for name in map(str, range(60))}
    assert draws == {name: mmmu.choose("?", options, mmmu.generator(name))[0] for name in reversed(draws)}
    assert set(draws.values()) == {"A", "B", "C"}


def test_mmmu_open_answers() -> None:
    for text, answers, candidates, correct in read("mmmu")["open_cases"]:
        own = mmmu.parse_open(text)
        assert sorted(map(repr, own)) == candidates, repr(text)
        assert mmmu.is_correct_open(own, [answers] if isinstance(answers, str) else answers) == correct, (text, answers)


def test_mmmu_scores() -> None:
    expected = read("mmmu")
    answers = [mmmu.MmmuAnswer(float(correct), subject) for subject, correct in expected["aggregate"]]
    scores = mmmu.mmmu_scores(answers)
    assert scores["accuracy"] == pytest.approx(expected["accuracy"], rel=1e-14)
    assert scores["accuracy_by_domain"] == pytest.approx(expected["by_domain"], rel=1e-14)
    assert scores["accuracy_by_subject"] == pytest.approx(expected["by_subject"], rel=1e-14)
    assert len(mmmu.SUBJECTS) == 30
    assert mmmu.subject_of("validation_Architecture_and_Engineering_14") == "Architecture_and_Engineering"


def test_seed() -> None:
    expected = read("seed")
    answers = []
    for text, answer, data_type, question_type, lmms_eval in expected["cases"]:
        assert seed.is_correct_in_lmms_eval(text, answer) == lmms_eval, (text, answer)
        answers.append(seed.SeedAnswer(float(seed.is_correct(text, answer)), data_type, question_type))
    scores = seed.seed_scores(answers)
    own = {"Total accuracy": scores["accuracy"]} | scores["accuracy_by_type"]
    own |= {f"{name} accuracy": scores[f"{name}_accuracy"] for name in ("image", "video")}
    assert {name: f"{score:.2%}" for name, score in own.items()} == {
        name: f"{percent:.2f}%" for name, percent in expected["percent"].items()
    }


def test_mmvet() -> None:
    expected = read("mmvet")
    for reply, grade in expected["grade_cases"]:
        assert mmvet.parse_grade(reply) == grade, repr(reply)
    for question, answer, prediction, digest in expected["prompt_cases"]:
        assert sha256(mmvet.grading_prompt(question, answer, prediction)) == digest
    grades = {name: values for name, _, values in expected["cases"]}
    capabilities = {name: needed for name, needed, _ in expected["cases"]}
    scores = mmvet.mmvet_scores(grades, capabilities)
    for name in ("score", "std", "by_capability", "by_integration"):
        own = scores[f"score_{name}" if name.startswith("by_") else name]
        assert own == pytest.approx(expected[name], abs=1e-8), name
    assert scores["missing"] == 0


def test_mmvet_grade_that_is_missing_is_not_zero() -> None:
    scores = mmvet.mmvet_scores({"a": [1.0, None], "b": [0.5, 0.5]}, {"a": ["ocr"], "b": ["math", "ocr"]})
    assert (scores["score"], scores["missing"]) == (pytest.approx((75 + 50) / 2), 1.0)
    assert scores["score_by_integration"] == {"ocr": 100.0, "ocr_math": 50.0}
    assert mmvet.mmvet_scores({}, {})["score"] == 0.0


def test_llava_bench() -> None:
    expected = read("llava_bench")
    assert expected["system"] == llava_bench.SYSTEM_PROMPT
    grades: dict[str, list[llava_bench.Grades | None]] = {}
    for category, context, question, reference, answer, review, digest, numbers in expected["cases"]:
        assert sha256(llava_bench.grading_prompt(context, question, reference, answer)) == digest
        grade = llava_bench.parse_review(review)
        if numbers is None or "nan" in numbers:  # the official script takes nan for a grade
            assert grade is None, repr(review)
        else:
            assert grade == llava_bench.Grades(*numbers), repr(review)
        grades.setdefault(category, []).append(grade)
    off_scale = [llava_bench.parse_review(text) for text in ("0 5", "8 11", "-1 -1", "8.5 inf")]
    assert [grade.is_on_scale for grade in off_scale if grade] == [False] * 3 and off_scale[-1] is None
    scores = llava_bench.llava_bench_scores(grades)
    names = ("score", "reference_score", "model_score")
    for category in llava_bench.CATEGORIES:
        assert [scores[f"{name}_by_category"][category] for name in names] == expected["summary"][category]
    assert [scores[name] for name in names] == expected["summary"]["all"]
    assert scores["missing"] == sum(row[-1] is None or "nan" in row[-1] for row in expected["cases"])
    # LLaVA's script puts (-1, -1) for a review that it cannot read, and its summary averages these, too.
    counted = {name: [grade or llava_bench.UNREAD for grade in own] for name, own in grades.items()}
    reference, model = (
        round(float(np.mean([getattr(grade, side) for own in counted.values() for grade in own])), 3)
        for side in ("reference", "model")
    )
    official = llava_bench.llava_bench_scores(counted)
    assert official["score"] == round(model / reference * 100, 1) != scores["score"] and official["missing"] == 0
