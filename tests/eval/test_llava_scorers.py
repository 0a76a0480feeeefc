"""LLaVA's modules that score, and its converters: its flags, its files, its figures."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from llava.eval import (
    eval_pope,
    eval_science_qa,
    eval_textvqa,
)
from llava.eval.m4c_evaluator import EvalAIAnswerProcessor, TextVQAAccuracyEvaluator
from tests.eval import layout
from tests.eval.test_benchmark_tasks import read_sheet
from tests.eval.test_llava_modules import read

SCRIPTS = Path(__file__).parents[2] / "scripts"
TAIL = "Answer with the option's letter from the given choices directly."


def test_eval_pope(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["yes", "no", "yes", "no"]
    layout.write_jsonl(tmp_path / "coco" / "coco_pope_random.json", [{"question_id": 1, "label": x} for x in labels])
    layout.write_jsonl(tmp_path / "coco" / "coco_pope_popular.json", [{"question_id": 1, "label": "no"}])
    questions = [{"question_id": n, "category": "random" if n < 4 else "popular"} for n in range(5)]
    texts = ["Yes", "No, it is not.", "There is no dog", "a cat. no", "no"]
    answers = [{"question_id": n, "text": text} for n, text in enumerate(texts)]
    words = ["--annotation-dir", str(tmp_path / "coco")]
    words += ["--question-file", str(layout.write_jsonl(tmp_path / "q.jsonl", questions))]
    words += ["--result-file", str(layout.write_jsonl(tmp_path / "a.jsonl", answers))]
    assert eval_pope.main(words) == 0
    assert capsys.readouterr().out.split("Category: ")[2] == (
        "random, # samples: 4\nTP\tFP\tTN\tFN\t\n1\t1\t1\t1\nAccuracy: 0.5\nPrecision: 0.5\nRecall: 0.5\n"
        "F1 score: 0.5\nYes ratio: 0.5\n0.500, 0.500, 0.500, 0.500, 0.500\n====================================\n"
    )
    layout.write_jsonl(tmp_path / "a.jsonl", answers[1:])
    with pytest.raises(SystemExit, match=r"question_id 1 stands where .*q\.jsonl has 0"):
        eval_pope.main(words)
    layout.write_jsonl(tmp_path / "a.jsonl", [*answers[:3], answers[4]])
    with pytest.raises(SystemExit, match="3 answers for 4 questions"):
        eval_pope.main(words)
    layout.write_jsonl(tmp_path / "a.jsonl", answers)
    layout.write_jsonl(tmp_path / "q.jsonl", [row | {"image": f"{row['question_id']}.jpg"} for row in questions])
    rows = [{"question_id": n, "label": x, "image": f"{n}.jpg"} for n, x in enumerate(labels)]
    layout.write_jsonl(tmp_path / "coco" / "coco_pope_random.json", rows[::-1])
    with pytest.raises(SystemExit, match=r"image '3\.jpg' stands where .*q\.jsonl has '0\.jpg'"):
        eval_pope.main(words)
    with pytest.raises(SystemExit, match=r"has no coco_pope_<split>\.json"):
        eval_pope.main([*words, "--annotation-dir", str(tmp_path)])


def test_eval_textvqa(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = [
        {"image_id": "a", "question": "What BRAND?", "answers": ["nokia"] * 10},
        {"image_id": "b", "question": "how many?", "answers": ["two"] * 5 + ["3"] * 5},
    ]
    annotations = layout.write_json(tmp_path / "val.json", {"data": data})
    short = "Answer the question using a single word or phrase."
    rows = [
        {"question_id": "a", "prompt": f"What brand?\nReference OCR token: N, K\n{short}", "text": "Nokia."},
        {"question_id": "a", "prompt": f"Reference OCR token: N\nWhat brand?\n{short}", "text": "samsung"},
        {"question_id": "b", "prompt": f"How many?\n{short}", "text": "2"},
        {"question_id": "b", "prompt": "OCR tokens: x, y. Question: how many? Short answer:", "text": "4"},
    ]
    result = layout.write_jsonl(tmp_path / "results" / "llava.jsonl", rows)
    (result.parent / "notes.txt").touch()
    assert eval_textvqa.main(["--annotation-file", str(annotations), "--result-dir", str(result.parent)]) == 0
    assert capsys.readouterr().out == "llava\nSamples: 4\nAccuracy: 50.00%\n\nSkipping notes.txt\n"
    layout.write_jsonl(result, [{"question_id": "c", "prompt": f"How many?\n{short}", "text": ""}])
    with pytest.raises(SystemExit, match="no question 'how many\\?' about image 'c'"):
        eval_textvqa.main(["--annotation-file", str(annotations), "--result-file", str(result)])
    with pytest.raises(SystemExit) as wrong:
        eval_textvqa.main(["--annotation-file", str(annotations)])
    assert wrong.value.code == 2
    evaluator = TextVQAAccuracyEvaluator()
    assert evaluator.eval_pred_list([{"pred_answer": "Nokia.", "gt_answers": ["nokia"] * 10}]) == 1.0
    assert EvalAIAnswerProcessor()("The Two dogs.") == "2 dogs"


def test_eval_science_qa(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": "?", "choices": ["x", "y"], "answer": n % 2, "hint": "", "image": None} for n in range(4)]
    layout.write_scienceqa(tmp_path, rows)
    answers = [
        {"question_id": "0", "text": "A", "prompt": "<image>\n?"},
        {"question_id": "1", "text": "The answer is C.", "prompt": "<image>\n?"},
        {"question_id": "2", "text": "A. x", "prompt": "?"},
    ]
    words = ["--base-dir", str(tmp_path / "scienceqa"), "--output-file", str(tmp_path / "o.json")]
    words += ["--result-file", str(layout.write_jsonl(tmp_path / "a.jsonl", answers))]
    assert eval_science_qa.main([*words, "--output-result", str(tmp_path / "r.json")]) == 0
    assert capsys.readouterr().out == "Total: 4, Correct: 2, Accuracy: 50.00%, IMG-Accuracy: 50.00%\n"
    result = json.loads((tmp_path / "r.json").read_text())
    assert result == {
        "acc": 50.0,
        "correct": 2,
        "count": 4,
        "results": {"0": 0, "1": -1, "2": 0, "3": -1},
        "outputs": {"0": "A", "1": "The answer is C.", "2": "A. x", "3": "FAILED"},
    }
    analyses = json.loads((tmp_path / "o.json").read_text())
    assert [row["parsed_ans"] for row in analyses["incorrect"]] == ["C", "FAILED"]
    with pytest.raises(SystemExit, match="has no split 'val'; it has test"):
        eval_science_qa.main([*words, "--output-result", str(tmp_path / "r.json"), "--split", "val"])
    splits = tmp_path / "scienceqa" / "pid_splits.json"
    layout.write_json(splits, {"test": ["0", "77"]})
    with pytest.raises(SystemExit, match=r"problems\.json has no problem '77', which the split 'test' names"):
        eval_science_qa.main([*words, "--output-result", str(tmp_path / "r.json")])


@pytest.mark.parametrize("row", [{"question_id": 5, "text": None}, {"question_id": [5], "text": "a"}])
def test_an_answer_that_is_no_text_is_named(row: dict[str, Any], tmp_path: Path) -> None:
    source = layout.write_jsonl(tmp_path / "a.jsonl", [{"question_id": 4, "text": "a"}, row])
    for name in ("convert_gqa_for_eval.py", "convert_mmvet_for_eval.py"):
        with pytest.raises(SystemExit, match=r"a\.jsonl: row 2 has (None as 'text'|\[5\] as 'question_id'), which is"):
            convert(name, "--src", source, "--dst", tmp_path / "out.json")
        assert not (tmp_path / "out.json").exists()


def convert(name: str, *words: object) -> None:
    runpy.run_path(str(SCRIPTS / name))["main"]([str(word) for word in words])


def test_converters_of_gqa_and_mmvet(tmp_path: Path) -> None:
    source = layout.write_jsonl(tmp_path / "a.jsonl", [{"question_id": 5, "text": "A Cat.."}])
    convert("convert_gqa_for_eval.py", "--src", source, "--dst", tmp_path / "gqa.json")
    assert json.loads((tmp_path / "gqa.json").read_text()) == [{"questionId": 5, "prediction": "a cat"}]
    convert("convert_mmvet_for_eval.py", "--src", source, "--dst", tmp_path / "mmvet.json")
    assert json.loads((tmp_path / "mmvet.json").read_text()) == {"v1_5": "A Cat.."}


def test_converter_of_mmbench(tmp_path: Path) -> None:
    rows = [{"index": n, "question": "Q?", "A": "x", "B": "y", "answer": "A"} for n in (1, 2)]
    table = layout.write_mmbench(tmp_path, rows)
    layout.write_jsonl(tmp_path / "answers" / "7b.jsonl", [{"question_id": 2, "text": "B"}])
    words = ("--annotation-file", table, "--result-dir", tmp_path / "answers", "--upload-dir", tmp_path / "up")
    convert("convert_mmbench_for_submission.py", *words, "--experiment", "7b")
    head, first, second = read_sheet((tmp_path / "up" / "7b.xlsx").read_bytes())
    assert " ".join(head.values()) == "index question A B C D prediction answer split"
    assert first == {"A2": "1", "B2": "Q?", "C2": "x", "D2": "y", "H2": "A", "I2": "dev"}
    assert second["G3"] == "B"


def test_converter_of_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"question_id": "1", "answer": "A", "data_type": "image", "question_type_id": 1},
        {"question_id": "v2", "answer": "B", "data_type": "video", "question_type_id": 10},
    ]
    annotations = layout.write_seed(tmp_path, rows)
    source = layout.write_jsonl(
        tmp_path / "a.jsonl", [{"question_id": 1, "text": "A"}, {"question_id": "v2", "text": "b"}]
    )
    words = ("--annotation-file", annotations, "--result-file", source)
    convert("convert_seed_for_submission.py", *words, "--result-upload-file", tmp_path / "up" / "seed.jsonl")
    assert capsys.readouterr().out.splitlines() == [
        "Scene Understanding: 100.00%",
        "Action Recognition: 0.00%",
        "Total accuracy: 50.00%",
        "image accuracy: 100.00%",
        "video accuracy: 0.00%",
    ]
    assert read(tmp_path / "up" / "seed.jsonl") == [
        {"question_id": "1", "prediction": "A"},
        {"question_id": "v2", "prediction": "b"},
    ]


@pytest.mark.parametrize("said", [["A", "B"], ["A"]])
def test_converter_of_seed_counts_both_rows_of_the_id_that_stands_twice(
    said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"question_id": "49914", "answer": answer, "data_type": "image", "question_type_id": 1} for answer in ("A", "B")
    ]
    annotations = layout.write_seed(tmp_path, rows)
    source = layout.write_jsonl(tmp_path / "a.jsonl", [{"question_id": 49914, "text": text} for text in said])
    words = ("--annotation-file", annotations, "--result-file", source)
    convert("convert_seed_for_submission.py", *words, "--result-upload-file", tmp_path / "seed.jsonl")
    assert f"Total accuracy: {50 * len(said)}.00%" in capsys.readouterr().out
    written = [(row["question_id"], row["prediction"]) for row in read(tmp_path / "seed.jsonl")]
    assert written == [("49914", "A"), ("49914", said[-1])]


SEED = ["--annotation-file", "{seed}", "--result-file", "{answers}", "--result-upload-file", "{out}"]
CONVERT = ["--src", "{none}", "--dst", "{out}"]


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("convert_seed_for_submission.py", SEED),
        ("convert_seed_for_submission.py", [flag.replace("answers", "none").replace("seed", "some") for flag in SEED]),
        ("convert_gqa_for_eval.py", CONVERT),
        ("convert_mmvet_for_eval.py", CONVERT),
    ],
)
def test_nothing_to_score_is_an_error(name: str, flags: list[str], tmp_path: Path) -> None:
    places = {"seed": layout.write_seed(tmp_path, []), "out": tmp_path / "out"}
    places |= {"none": layout.write_jsonl(tmp_path / "none.jsonl", [])}
    places |= {"answers": layout.write_jsonl(tmp_path / "some.jsonl", [{"question_id": 1, "text": "A"}])}
    row = {"question_id": "1", "answer": "A", "data_type": "image", "question_type_id": 1}
    places |= {"some": layout.write_json(tmp_path / "some.json", {"questions": [row], "question_type": {"a": 1}})}
    with pytest.raises(SystemExit, match="has no row: there is nothing to score"):
        convert(name, *(flag.format(**places) for flag in flags))
    assert not (tmp_path / "out").exists()


def test_converters_for_evalai(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = layout.write_jsonl(
        tmp_path / "answers" / "dev" / "7b" / "merge.jsonl", [{"question_id": 1, "text": "Two"}]
    )
    with source.open("a") as file:
        file.write("{torn\n")
    layout.write_jsonl(tmp_path / "llava_vqav2_mscoco_test2015.jsonl", [{"question_id": n} for n in (1, 2)])
    convert("convert_vqav2_for_submission.py", "--dir", tmp_path, "--split", "dev", "--ckpt", "7b")
    assert capsys.readouterr().out == "total results: 1, total split: 2, error_line: 1\n"
    assert json.loads((tmp_path / "answers_upload" / "dev" / "7b.json").read_text()) == [
        {"question_id": 1, "answer": "2"},
        {"question_id": 2, "answer": ""},
    ]
    split = layout.write_jsonl(tmp_path / "v.jsonl", [{"question_id": 1, "image": "i.jpg"}])
    words = ("--annotation-file", split, "--result-file", source)
    convert("convert_vizwiz_for_submission.py", *words, "--result-upload-file", tmp_path / "up" / "v.json")
    assert json.loads((tmp_path / "up" / "v.json").read_text()) == [{"image": "i.jpg", "answer": "2"}]
