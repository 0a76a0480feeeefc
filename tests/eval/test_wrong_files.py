"""Answer files and question files with values of another type, or in another encoding: a line that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llava.eval import eval_pope, eval_science_qa, eval_textvqa, model_vqa, model_vqa_loader, model_vqa_science
from llava.eval.answer_sets import read_answer_set
from llava.eval.answers import AnswersKeyMismatch, read_answers
from llava.eval.answers_key import AnswersKey
from tests.eval import layout

KEY = AnswersKey("tiny_vqa", "m", None, "v1", "p", {"max_new_tokens": 4}, "float32")
WRONG = (None, 5, ["a"], {}, "\xff")


def answers(path: Path, *rows: Any) -> Path:
    return layout.write_jsonl(path, [{"run_key": KEY.to_json()}, *rows])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question_id": "1", "text": None}, "line 2: text is None, which is not text"),
        ({"question_id": "1"}, "line 2: text is None"),
        ({"question_id": 1, "text": "a"}, "line 2: question_id is 1, which is not text"),
        ({"question_id": ["1"], "text": "a"}, r"line 2: question_id is \['1'\]"),
        ({"question_id": "1", "error": 5}, "line 2: error is 5"),
        ({"question_id": "1", "text": "a", "visual_tokens": "many"}, "line 2: visual_tokens is 'many'"),
        (None, "line 2: question_id is None"),
        ([], "line 2: question_id is None"),
    ],
)
def test_a_row_of_answers_of_another_type_is_named(row: Any, message: str, tmp_path: Path) -> None:
    path = answers(tmp_path / "none.jsonl", row)
    for read, kind in (
        (lambda: read_answers(path, KEY), AnswersKeyMismatch),
        (lambda: read_answer_set(path), ValueError),
    ):
        with pytest.raises(kind, match=rf"none\.jsonl is not a file of answers.*{message}"):
            read()


@pytest.mark.parametrize(
    "header",
    [None, 5, [], {}, {"run_key": 5}, {"run_key": []}, {"run_key": {}}, {"run_key": {"task": "x", "compression": 5}}],
)
def test_a_wrong_run_key_is_named(header: Any, tmp_path: Path) -> None:
    path = layout.write_jsonl(tmp_path / "none.jsonl", [header, {"question_id": "1", "text": "a"}])
    with pytest.raises(ValueError, match=r"none\.jsonl "):
        read_answer_set(path)
    with pytest.raises(AnswersKeyMismatch, match=r"none\.jsonl "):
        read_answers(path, KEY)


def test_files_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    path.write_bytes(json.dumps({"run_key": KEY.to_json()}).encode() + b'\n{"question_id": "1", "text": "caf\xe9"}\n')
    message = r"none\.jsonl is not UTF-8 text: 0xe9 at byte \d+"
    with pytest.raises(AnswersKeyMismatch, match=message):
        read_answers(path, KEY)
    with pytest.raises(ValueError, match=message):
        read_answer_set(path)
    words = ["--model-path", "nowhere", "--question-file", str(path)]
    for main in (model_vqa.main, model_vqa_loader.main, model_vqa_science.main):
        with pytest.raises(SystemExit, match=f"error: .*{message}"):
            main(words)
    (tmp_path / "coco_pope_random.json").write_text("{}\n")
    pope = ["--annotation-dir", str(tmp_path), "--question-file", str(path), "--result-file", str(path)]
    textvqa = ["--annotation-file", str(path), "--result-file", str(path)]
    for main, flags in ((eval_pope.main, pope), (eval_textvqa.main, textvqa)):
        with pytest.raises(SystemExit, match=r"error: .*none\.jsonl"):
            main(flags)
    path.write_bytes(
        b"\xef\xbb\xbf" + answers(tmp_path / "other.jsonl", {"question_id": "1", "text": "a"}).read_bytes()
    )
    assert read_answer_set(path).texts == {"1": "a"}, "a byte order mark is none of the text"


def change(content: Any, wrong: Any) -> list[Any]:
    """The content with each of its values wrong in turn, to a depth of three."""

    def places(value: Any, depth: int) -> list[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
        return [()] + [(key, *rest) for key, below in items if depth for rest in places(below, depth - 1)]

    made = []
    for place in places(content, 3):
        copy = json.loads(json.dumps(content))
        if not place:
            made.append(wrong)
            continue
        parent = copy
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = wrong
        made.append(copy)
    return made


def ends_in_a_line(main: Any, words: list[str]) -> None:
    """It works, or ends with an error in a line that names a file."""
    try:
        assert main(words) == 0
    except SystemExit as end:
        assert str(end.code).startswith("error: ") and "\n" not in str(end.code) and ".json" in str(end.code), end.code


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_llavas_scorers_name_the_file(wrong: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {
        "q.jsonl": [{"question_id": 1, "category": "random", "image": "a.jpg"}],
        "coco_pope_random.json": [{"question_id": 1, "label": "yes", "image": "a.jpg"}],
        "a.jsonl": [{"question_id": 1, "text": "yes", "prompt": "What?\nShort."}],
        "val.json": {"data": [{"image_id": 1, "question": "What?", "answers": ["x"] * 10}]},
        "pid_splits.json": {"test": ["1"]},
        "problems.json": {"1": {"choices": ["x", "y"], "answer": 0}},
    }

    def write(name: str, content: Any) -> None:
        lines = isinstance(content, list) and name not in ("val.json", "pid_splits.json", "problems.json")
        (layout.write_jsonl if lines else layout.write_json)(tmp_path / name, content)

    out = ["--output-file", str(tmp_path / "out1"), "--output-result", str(tmp_path / "out2")]
    here = {name: str(tmp_path / name) for name in good}
    pope = ["--annotation-dir", str(tmp_path), "--question-file", here["q.jsonl"], "--result-file", here["a.jsonl"]]
    textvqa = ["--annotation-file", here["val.json"], "--result-file", here["a.jsonl"]]
    science = ["--base-dir", str(tmp_path), "--result-file", here["a.jsonl"], *out]
    for name, content in good.items():
        write(name, content)
    for main, words in ((eval_pope.main, pope), (eval_textvqa.main, textvqa), (eval_science_qa.main, science)):
        assert main(words) == 0
        for name, content in good.items():
            for changed in change(content, wrong):
                write(name, changed)
                ends_in_a_line(main, words)
            write(name, content)
    capsys.readouterr()


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_question_files_of_other_types_are_named(wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (model_vqa, model_vqa_science):
        monkeypatch.setattr(module, "answer_file", lambda args, asked, limit: None)  # only the reading is tried
    lines = [{"question_id": 1, "text": "What?", "image": "a.jpg"}]
    listed = [{"id": "1", "image": "a.jpg", "conversations": [{"value": "What?"}]}]
    for main, content in ((model_vqa.main, lines), (model_vqa_science.main, listed)):
        for changed in change(content, wrong):
            path = layout.write_json(tmp_path / "q.json", changed)
            if main is model_vqa.main and isinstance(changed, list):
                layout.write_jsonl(path, changed)
            ends_in_a_line(main, ["--model-path", "nowhere", "--question-file", str(path)])
