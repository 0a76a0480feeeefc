"""What is measured on the crowded world: answers kept by method and seed, a test split that is guarded, a table."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from playground.crowded import freeze, make_data, measure
from playground.crowded.ablation import VARIANTS, tuned_name
from playground.crowded.publish import goals_of, mean_rows
from playground.crowded.questions import ASKED
from playground.crowded.table import KINDS, lead, markdown, read_results, recovered, shares

ROOT = Path(__file__).parents[2]
TINY = ROOT / "playground" / "tiny" / "model"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few scenes; the tiny model can be asked about them, however little it knows."""
    folder = tmp_path_factory.mktemp("crowded")
    sizes = ["--train", "2", "--align", "1", "--scenes", "3", "--questions", "14"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["make_data", "--output", str(folder), *sizes])
        make_data.main()
    return folder


def asked(monkeypatch: pytest.MonkeyPatch, data: Path, results: Path, *words: str) -> int:
    flags = ["--model", str(TINY), "--data", str(data), "--results", str(results)]
    monkeypatch.setattr(sys, "argv", ["measure", *words, *flags])
    return measure.main()


def test_answers_are_kept_by_method_and_seed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["visionzip:17+3", "random:20", "--split", "dev", "--seeds", "2", "--limit", "9"]
    assert asked(monkeypatch, data, tmp_path, *words) == 0
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["random_20.seed0.json", "random_20.seed1.json", "visionzip_17+3.seed0.json"]
    rows = [json.loads((tmp_path / name).read_text()) for name in files]
    for row in rows:
        assert len(row["answers"]) == 9 and row["tokens"] == {"mean": 20.0, "p95": 20.0, "max": 20.0}
    assert rows[0]["answers"] != rows[1]["answers"], "another seed keeps other patches"
    capsys.readouterr()
    (tmp_path / files[1]).unlink()
    assert asked(monkeypatch, data, tmp_path, *words) == 0
    assert capsys.readouterr().out.count("already there") == 2
    assert json.loads((tmp_path / files[1]).read_text())["answers"] == rows[1]["answers"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a:1", "b:1", "--split", "dev", "--name", "x", "--projector", "p"], "--name needs one BUDGET"),
        (["coverage:20", "--split", "dev", "--name", "x"], "go together"),
        (["coverage:20", "--split", "test", "--limit", "5"], "test is asked whole"),
        (["coverage:20", "--split", "dev", "--seed", "1"], "--seed is that of a tuning"),
        (["coverage:20", "--split", "dev", "--limit", "0"], "--limit must be at least 1"),
        (["random:20", "--split", "dev", "--seeds", "0"], "--seeds must be at least 1"),
    ],
)
def test_wrong_flags(
    words: list[str],
    said: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        asked(monkeypatch, data, tmp_path, *words)
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("random:20,seed=3", "leave seed= out"),
        ("coverage:999", "is outside 1..196"),
        ("zip:20", "unknown compression method 'zip'"),
        ("coverage", "is not of the form"),
    ],
)
def test_a_wrong_budget_ends_it_before_anything_is_asked(
    budget: str, said: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=said):
        asked(monkeypatch, data, tmp_path, "visionzip:17+3", budget, "--split", "dev")
    assert not list(tmp_path.iterdir())


def test_answers_of_another_kind_are_not_taken_for_these(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of fewer questions, of another model, of a projector that was put on; and one method has one name."""
    words = ["visionzip:17+3", "--split", "dev"]
    asked(monkeypatch, data, tmp_path, *words, "--limit", "5")
    with pytest.raises(ValueError, match=r"visionzip_17\+3\.seed0\.json: answers of another questions \(with --limit"):
        asked(monkeypatch, data, tmp_path, *words)
    asked(monkeypatch, data, tmp_path, "visionzip:17+3,merge=reference", "--split", "dev", "--limit", "5")
    [path] = tmp_path.iterdir()
    row = json.loads(path.read_text())
    assert row["projector"] is None and row["commit"]
    path.write_text(json.dumps({**row, "model": "another", "projector": "one"}))
    with pytest.raises(ValueError, match="answers of another model, projector"):
        asked(monkeypatch, data, tmp_path, *words, "--limit", "5")


def test_test_is_asked_of_the_frozen_model_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path) -> None:
    """Also where --model names another than that beside the code."""
    model, frozen = tmp_path / "model" / "first", tmp_path / "frozen"
    shutil.copytree(TINY, model)
    frozen.mkdir()
    (frozen / "first.json").write_text(json.dumps(freeze.frozen_parts("first", data, model)))
    monkeypatch.setattr(freeze, "HERE", tmp_path)
    monkeypatch.setattr(freeze, "GENERATOR", ())
    monkeypatch.setattr(freeze, "HYPOTHESES", "frozen/first.json")
    weights = freeze.sha256(model / name for name in freeze.WEIGHTS)
    assert freeze.frozen_parts("first", data)["weights"] == weights
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (other / "config.json").write_text("{}")
    assert "weights" not in freeze.changed_parts("first", data, model)
    assert "weights" in freeze.changed_parts("first", data, other)
    with pytest.raises(SystemExit, match=r"weights.*not as frozen"):
        measure.check_frozen("first", data, other)


def test_another_test_split_is_not_asked(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """These few scenes are not the frozen ones."""
    with pytest.raises(SystemExit, match="test is asked on the frozen world only"):
        asked(monkeypatch, data, tmp_path, "visionzip:17+3", "--split", "test")
    assert not list(tmp_path.iterdir())


def test_what_is_frozen_is_as_it_was() -> None:
    """The generator, the hypotheses and the weights of each world whose hashes are written down."""
    worlds = sorted((freeze.HERE / "frozen").glob("*.json"))
    for path in worlds:
        frozen = json.loads(path.read_text())
        model = freeze.HERE / "model" / path.stem
        assert frozen["generator"] == freeze.sha256(freeze.HERE / name for name in freeze.GENERATOR)
        assert frozen["hypotheses"] == freeze.sha256([freeze.HERE / freeze.HYPOTHESES])
        assert frozen["weights"] == freeze.sha256(model / name for name in freeze.WEIGHTS)


QUESTIONS: list[dict[str, Any]] = [
    {"question_id": number, "image": f"{number // 7}.png", "kind": KINDS[number % 7], "answer": "yes"}
    for number in range(14)
]


def result(folder: Path, name: str, seed: int, answers: list[str], tokens: float) -> None:
    row = {"name": name, "seed": seed, "answers": answers, "tokens": {"mean": tokens, "p95": tokens, "max": tokens}}
    row |= {"model": "m", "questions": measure.digest_of(QUESTIONS)}
    (folder / f"{measure.file_name(name)}.seed{seed}.json").write_text(json.dumps(row))


def test_the_table_is_what_one_works_out_by_hand(tmp_path: Path) -> None:
    questions = QUESTIONS
    result(tmp_path, "visionzip:17+3", 0, ["yes"] * 7 + ["no"] * 7, 20)
    result(tmp_path, "random:20", 0, ["yes"] * 14, 20)
    result(tmp_path, "random:20", 1, ["no"] * 14, 20)
    result(tmp_path, "coverage:20", 0, ["yes"] * 14, 20)
    result(tmp_path, "none", 0, ["yes"] * 13 + ["no"], 196)
    found = read_results(tmp_path, questions)
    assert found["random:20"].seeds == 2 and found["random:20"].per_seed == (1, 0)
    assert set(found["random:20"].earned.values()) == {0.5}
    pictures = {str(question["question_id"]): question["image"] for question in questions}
    assert lead(found["coverage:20"], found["visionzip:17+3"], pictures) == (0.5, 0, 1)
    lines = markdown(found, questions, "visionzip").splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["none", "coverage:20", "random:20", "visionzip:17+3"]
    assert "| 92.9% | 100.0% |" in lines[2] and lines[2].endswith("| 50.0% | - |") and lines[5].endswith("| - |")
    assert lines[3].endswith("+50.0 (+0.0 to +100.0) |") and lines[4].endswith(" +0.0 (-50.0 to +50.0) |")
    share, low, high = recovered(found["coverage:20"], found["visionzip:17+3"], found["none"], pictures)
    assert share == pytest.approx(7 / 6) and low <= share <= high
    assert "| coverage:20 | 117% (" in shares(found, questions, "visionzip")
    with pytest.raises(ValueError, match=r"^scope: not among what was measured"):
        shares(found, questions, "scope")
    over_one = markdown(found, questions, "coverage:20").splitlines()
    assert over_one[3].endswith("| - |") and over_one[5].endswith("-50.0 (-100.0 to +0.0) |")


def test_a_table_mixes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no answers; measure\.py writes them"):
        read_results(tmp_path, QUESTIONS)
    result(tmp_path, "coverage:20", 0, ["yes"] * 14, 20)
    with pytest.raises(ValueError, match="answers to other questions: of other data, or of another --limit"):
        read_results(tmp_path, QUESTIONS[:9])
    result(tmp_path, "none", 0, ["yes"] * 14, 196)
    path = tmp_path / "none.seed0.json"
    path.write_text(path.read_text().replace('"model": "m"', '"model": "n"'))
    with pytest.raises(ValueError, match="answers of several models"):
        read_results(tmp_path, QUESTIONS)


def test_kinds_are_those_that_are_asked() -> None:
    assert KINDS == ASKED


def test_a_tuned_method_is_named_by_its_budget() -> None:
    assert tuned_name("coverage", "coverage:49,alpha=0") == "coverage (tuned):49,alpha=0"
    assert tuned_name("coverage", "visionzip:41+8") == "coverage (tuned) under visionzip:41+8"
    assert tuned_name("visionzip", "none") == "visionzip (tuned) under none"


def test_goals_are_told_from_rows() -> None:
    rows = [
        {"method": method, "tokens": tokens, "accuracy": accuracy, "accuracy_by_group": {"text": accuracy}}
        for method, tokens, accuracy in (
            ("none", 196.0, 0.9),
            ("visionzip", 49.0, 0.88),
            ("visionzip", 20.0, 0.8),
            ("random", 20.0, 0.5),
            ("random", 20.0, 0.7),
        )
    ]
    found = mean_rows(rows)
    assert found["random", 20]["all"] == pytest.approx(0.6)
    assert [goal["met"] for goal in goals_of(found)] == [True, False, True]


def test_variants_differ_from_plain_coverage_in_one_thing_each() -> None:
    assert VARIANTS["coverage"].flags == {} and VARIANTS["visionzip"].flags == {}
    alone = [VARIANTS[f"coverage-{name}"] for name in ("rising", "distilled", "drawn")]
    assert {variant.compression for variant in alone} == {VARIANTS["coverage"].compression}
    assert len({tuple(variant.flags) for variant in alone}) == 3
