"""LLaVA's modules that answer: its flags, its files, its figures."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llava.eval import (
    model_vqa,
    model_vqa_loader,
    model_vqa_mmbench,
    model_vqa_science,
    run_llava,
)
from llava.eval.question_files import get_chunk
from llava.inference import GenerationOptions, Inference
from tests.eval import layout

SCRIPTS = Path(__file__).parents[2] / "scripts"
TAIL = "Answer with the option's letter from the given choices directly."


@pytest.fixture(scope="module")
def inference(oracle_dir: Path) -> Inference:
    return Inference.load(
        oracle_dir / "tiny-llava-v1.5", device="cpu", conv_mode="vicuna_v1", compression="visionzip:54+10"
    )


def flags(oracle_dir: Path, root: Path, questions: Path, *more: str) -> list[str]:
    return [
        *("--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--image-folder", str(oracle_dir / "images")),
        *("--question-file", str(questions), "--answers-file", str(root / "deep" / "answers.jsonl")),
        *(
            "--temperature",
            "0",
            "--conv-mode",
            "vicuna_v1",
            "--compression",
            "visionzip:54+10",
            "--device",
            "cpu",
            *more,
        ),
    ]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def greedy(inference: Inference, text: str, *images: Any, limit: int) -> str:
    return inference.ask_one(text, *images, options=GenerationOptions(limit)).text


def test_model_vqa_loader(oracle_dir: Path, inference: Inference, tmp_path: Path) -> None:
    rows = [
        {"question_id": 7, "image": "square.png", "text": "What is it?\nAnswer briefly.", "category": "x"},
        {"question_id": "b", "image": "small.png", "text": "And a much longer question about this picture?"},
        {"question_id": 9, "image": "square.png", "text": "Why?"},
    ]
    questions = layout.write_jsonl(tmp_path / "q.jsonl", rows)
    words = flags(oracle_dir, tmp_path, questions, "--max_new_tokens", "5", "--batch-size", "2")
    assert model_vqa_loader.main(words) == 0
    answers = read(tmp_path / "deep" / "answers.jsonl")
    assert [list(answer) for answer in answers] == [
        ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
    ] * 3
    assert [(answer["question_id"], answer["prompt"]) for answer in answers] == [
        (row["question_id"], row["text"]) for row in rows
    ]
    for row, answer in zip(rows, answers, strict=True):
        assert answer["text"] == greedy(inference, row["text"], oracle_dir / "images" / row["image"], limit=5)
        assert answer["model_id"] == "tiny-llava-v1.5" and answer["metadata"] == {}
    assert len({answer["answer_id"] for answer in answers}) == 3
    assert model_vqa_loader.main([*words, "--num-chunks", "2", "--chunk-idx", "1"]) == 0
    assert [answer["question_id"] for answer in read(tmp_path / "deep" / "answers.jsonl")] == [9]


def test_a_prompt_that_is_cut_is_named(oracle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "model"
    shutil.copytree(oracle_dir / "tiny-llava-v1.5", checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"tokenizer_model_max_length": 150}))
    rows = [{"question_id": "short", "image": "small.png", "text": "What?"}]
    rows += [{"question_id": f"q{n}", "image": "small.png", "text": "What is this? " * (n + 40)} for n in range(12)]
    questions = layout.write_jsonl(tmp_path / "q.jsonl", rows)
    words = flags(oracle_dir, tmp_path, questions, "--max_new_tokens", "1", "--batch-size", "13")
    assert model_vqa_loader.main([*words, "--model-path", str(checkpoint)]) == 0
    err = capsys.readouterr().err
    named = re.findall(r"question 'q(\d+)': the prompt is cut as in LLaVA, its last (\d+) tokens are not seen", err)
    assert len(named) == 10 and "12 of 13 prompts were cut" in err and "'short'" not in err
    lost = {int(number): int(count) for number, count in named}
    assert all(lost[n + 1] - lost[n] == lost[1] - lost[0] > 0 for n in range(8))
    one = ["--model-path", str(checkpoint), "--image-file", str(oracle_dir / "images" / "small.png"), "--device", "cpu"]
    with pytest.raises(SystemExit, match=r"error: the prompt would be \d+ tokens long, .* and the model sees 150"):
        run_llava.main([*one, "--query", "What is this? " * 40])


def test_questions_that_cannot_be_asked_are_named_and_the_others_answered(
    oracle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"question_id": 1, "image": "small.png", "text": "What?"},
        {"question_id": 2, "image": "none.png", "text": "What?"},
        {"question_id": 3, "image": "small.png", "text": "Half \ud83d of a pair"},
        {"question_id": 4, "image": "small.png", "text": "Is <image> like <image>?"},
        {"question_id": 5, "image": "small.png", "text": "Why?"},
    ]
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = r"error: 3 of 5 questions have no answer, the others are in .*answers\.jsonl; question \d: "
    with pytest.raises(SystemExit, match=told):
        model_vqa_loader.main(flags(oracle_dir, tmp_path, questions, "--max_new_tokens", "1", "--batch-size", "2"))
    assert [answer["question_id"] for answer in read(tmp_path / "deep" / "answers.jsonl")] == [1, 5]
    err = capsys.readouterr().err
    assert "none.png: No such file" in err and "question 3: the text is not Unicode" in err
    assert "question 4: the text has 2 <image> but 1 images" in err


def test_model_vqa_answers_up_to_1024_tokens(oracle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(model_vqa, "answer_file", lambda args, items, limit: asked.append((items, limit)))
    questions = layout.write_jsonl(tmp_path / "q.jsonl", [{"question_id": 1, "image": "a/b.jpg", "text": "What?"}])
    assert model_vqa.main(flags(oracle_dir, tmp_path, questions)) == 0
    [([item], limit)] = asked
    assert limit == 1024 and item.image == oracle_dir / "images" / "a" / "b.jpg"


def test_chunks_are_llavas() -> None:
    assert [get_chunk(range(10), 4, k) for k in range(4)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert get_chunk(range(5), 4, 3) == []  # LLaVA's own runs out of its list here
    with pytest.raises(ValueError, match="--chunk-idx must be"):
        get_chunk(range(5), 4, 4)


def test_model_vqa_mmbench(
    oracle_dir: Path, inference: Inference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_vqa_mmbench, "_MAX_NEW_TOKENS", 4)
    rows = [
        {"index": 3, "question": "Which?", "hint": "See.", "A": "red", "B": "blue", "C": "green", "answer": "A"},
        {"index": 4, "question": "What?", "hint": "nan", "A": "x", "B": "y", "answer": "B"},
    ]
    table = layout.write_mmbench(tmp_path, rows)
    words = flags(oracle_dir, tmp_path, table, "--single-pred-prompt", "--all-rounds")
    assert model_vqa_mmbench.main(words) == 0
    answers = read(tmp_path / "deep" / "answers.jsonl")
    assert [(a["question_id"], a["round_id"], a["option_char"]) for a in answers] == [
        *((3, 0, ["A", "B", "C"]), (3, 1, ["B", "C", "A"]), (3, 2, ["C", "A", "B"])),
        *((4, 0, ["A", "B"]), (4, 1, ["B", "A"])),
    ]
    assert answers[1]["prompt"] == "See.\nWhich?\nA. blue\nB. green\nC. red" and answers[1]["options"][0] == "blue"
    assert list(answers[0])[2:6] == ["prompt", "text", "options", "option_char"]
    assert answers[1]["text"] == greedy(inference, f"{answers[1]['prompt']}\n{TAIL}", layout.png(), limit=4)
    assert model_vqa_mmbench.main([*words[:-2], "--single-pred-prompt", "--lang", "cn"]) == 0
    assert [a["round_id"] for a in read(tmp_path / "deep" / "answers.jsonl")] == [0, 0]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("3", None),
        ("77", "row 4: its image is that of row '77', which the table does not have"),
        ("4", "row 4: its image is that of row '4', which has none of its own"),
        ("not base64!!", "row 4: its image is 'not base64!!', neither an image in base64 nor another row's index"),
    ],
)
def test_an_image_of_mmbench_may_be_that_of_another_row(
    reference: str,
    message: str | None,
    oracle_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(model_vqa_mmbench, "_MAX_NEW_TOKENS", 2)
    row = {"question": "Which?", "hint": "nan", "A": "red", "B": "blue", "answer": "A"}
    table = layout.write_mmbench(tmp_path, [row | {"index": 3}, row | {"index": 4}])
    first, second, third = table.read_text().splitlines()
    image = base64.b64encode(layout.png()).decode()
    table.write_text("\n".join([first, second, third.replace(image, reference)]) + "\n")
    words = flags(oracle_dir, tmp_path, table)
    if message is None:
        assert model_vqa_mmbench.main(words) == 0
        texts = [answer["text"] for answer in read(tmp_path / "deep" / "answers.jsonl")]
        assert len(texts) == 2 and texts[0] == texts[1]
        return
    with pytest.raises(SystemExit) as end:
        model_vqa_mmbench.main(words)
    assert message in f"{end.value}{capsys.readouterr().err}" and table.name in str(end.value)


def test_a_table_of_mmbench_whose_rows_cannot_be_told_apart(oracle_dir: Path, tmp_path: Path) -> None:
    row = {"question": "Which?", "hint": "nan", "A": "red", "B": "blue", "answer": "A"}
    for index, message in (("x", "row 2: index 'x' is no whole number"), (3, "row 2: index 3 is that of row 1 too")):
        table = layout.write_mmbench(tmp_path, [row | {"index": 3}, row | {"index": index}])
        with pytest.raises(SystemExit, match=message):
            model_vqa_mmbench.main(flags(oracle_dir, tmp_path, table))
    with pytest.raises(SystemExit):
        model_vqa_mmbench.main(flags(oracle_dir, tmp_path, table, "--lang", "xx"))


def test_an_answers_file_that_is_a_folder_is_told_of_before_the_model_is_loaded(tmp_path: Path) -> None:
    questions = layout.write_jsonl(tmp_path / "q.jsonl", [{"question_id": 1, "image": "a.png", "text": "?"}])
    words = ["--model-path", "nowhere", "--question-file", str(questions), "--answers-file"]
    for name in ("", str(tmp_path)):
        with pytest.raises(SystemExit, match=r"error: --answers-file '.*' is a folder; name a file in it"):
            model_vqa.main([*words, name])


def test_model_vqa_science(
    oracle_dir: Path, inference: Inference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_vqa_science, "_MAX_NEW_TOKENS", 4)
    rows = [
        {"id": "11", "image": "square.png", "conversations": [{"from": "human", "value": "Which?\nA. x\n<image>"}]},
        {"id": "12", "conversations": [{"from": "human", "value": "Which?\nA. x"}, {"from": "gpt", "value": "A"}]},
    ]
    questions = layout.write_json(tmp_path / "q.json", rows)
    assert model_vqa_science.main(flags(oracle_dir, tmp_path, questions, "--single-pred-prompt")) == 0
    with_image, without = read(tmp_path / "deep" / "answers.jsonl")
    assert with_image["prompt"] == f"<image>\nWhich?\nA. x\n{TAIL}" and without["prompt"] == f"Which?\nA. x\n{TAIL}"
    picture = oracle_dir / "images" / "square.png"
    assert with_image["text"] == greedy(inference, without["prompt"], picture, limit=4)
    assert without["text"] == greedy(inference, without["prompt"], limit=4)


def test_wrong_question_files_end_in_a_line(oracle_dir: Path, tmp_path: Path) -> None:
    questions = layout.write_jsonl(
        tmp_path / "q.jsonl", [{"question_id": 1, "image": "a.png", "text": "?"}, {"text": "?"}]
    )
    with pytest.raises(SystemExit, match=r"q\.jsonl: row 2 has no field 'question_id'"):
        model_vqa.main(flags(oracle_dir, tmp_path, questions))
    with pytest.raises(SystemExit, match=r"nowhere\.jsonl"):
        model_vqa_loader.main(flags(oracle_dir, tmp_path, tmp_path / "nowhere.jsonl"))
    questions.write_text("{\n")
    with pytest.raises(SystemExit, match="1 lines are not JSON"):
        model_vqa.main(flags(oracle_dir, tmp_path, questions))
    with pytest.raises(SystemExit, match="is not JSON"):
        model_vqa_science.main(flags(oracle_dir, tmp_path, questions))


@pytest.mark.parametrize(
    "module",
    ["judge", "report", "model_vqa", "model_vqa_mmbench", "eval_pope", "eval_textvqa", "eval_science_qa"],
)
def test_help_is_quick(module: str) -> None:
    program = (
        f"import runpy, sys\nsys.argv = ['x', '--help']\n"
        f"try:\n    runpy.run_module('llava.eval.{module}', run_name='__main__')\n"
        "except SystemExit:\n    pass\nassert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m llava.eval." in done.stdout
