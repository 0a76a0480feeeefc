"""Rows of `--tasks my.json`: what they mean, how they are scored, and what is wrong with one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llava.eval.command import main as evaluate
from llava.eval.metrics.own_answers import METRICS, earned
from llava.eval.session import _METRICS
from llava.eval.tasks.own_file import open_own_file
from llava.eval.tasks.own_rows import sample_of_row
from tests.test_readme import blocks

ROOT = Path(__file__).parents[2]
TINY = ROOT / "playground" / "tiny" / "model"
SCORERS = ROOT / "tests" / "fixtures" / "scorers"
LETTERS = "Answer with the option's letter from the given choices directly."


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows, indent=1), encoding="utf-8")
    return path


def results_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())["rows"]
    return rows


# ----- What a row means --------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "prompt", "metric", "answers"),
    [
        ({"question": "Q?", "answer": "a cat"}, "Q?", "exact", ["a cat"]),
        ({"text": "Q?", "answer": 4}, "Q?", "exact", ["4"]),
        ({"question": "Q?", "answer": ["car", "auto"]}, "Q?", "exact", ["car", "auto"]),
        ({"question": "Q?", "answers": ["a", "a", "a", "b"]}, "Q?", "vqa", ["a", "a", "a", "b"]),
        ({"question": "Q?", "answers": [{"answer": x} for x in "aab"]}, "Q?", "exact", ["a", "a", "b"]),
        ({"question": "Q?", "answer": "a", "metric": "contains"}, "Q?", "contains", ["a"]),
        ({"question": "Q?", "answer": "B", "choices": ["x", "y"]}, f"Q?\nA. x\nB. y\n{LETTERS}", "choice", ["B"]),
        ({"question": "Q?", "answer": 7, "options": {"B": 6, "C": 7}}, f"Q?\nB. 6\nC. 7\n{LETTERS}", "choice", ["C"]),
        (
            {"question": "Q?", "answer": "y", "choices": ["x", "y"], "metric": "exact"},
            f"Q?\nA. x\nB. y\n{LETTERS}",
            "exact",
            ["B", "y"],
        ),
        (
            {
                "image": "a.png",
                "conversations": [
                    {"from": "human", "value": "Q?\n<image>"},
                    {"from": "gpt", "value": "Yes."},
                    {"from": "human", "value": "Why?"},
                ],
            },
            "Q?",
            "exact",
            ["Yes."],
        ),
    ],
)
def test_what_a_row_asks_and_how_it_is_scored(
    row: dict[str, Any], prompt: str, metric: str, answers: list[str]
) -> None:
    sample = sample_of_row(row, 3, annotated=True)
    assert (sample.prompt, sample.details["metric"], sample.details["answers"]) == (prompt, metric, answers)
    assert sample.sample_id == "3" and sample.answer in answers


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (3, "3 is no object with `question` and `answer`"),
        ({"image": "a.png", "answer": "x"}, "question is None, which is no text; the row has image, answer"),
        ({"question": "Q?"}, "there is no answer; the row has question"),
        ({"question": "Q?", "answer": True}, "answer is True, which is neither text nor a number"),
        ({"question": "Q?", "answer": " "}, "the answer is empty"),
        ({"question": "Q?", "answer": "a", "image": 5}, "image is 5, which is no file name"),
        ({"question": "Q?", "answer": "a", "images": ["x.png"]}, "name the field `image`"),
        ({"question": "<image> or <image>?", "answer": "a", "image": ["x.png"] * 3}, "has 2 <image> but 3 images"),
        ({"question": "Q?", "answer": "a", "metric": "bleu"}, "metric 'bleu' is none of exact, contains, vqa, choice"),
        ({"question": "Q?", "answer": "a", "metric": "choice"}, "metric choice needs the options"),
        ({"question": "Q?", "answer": ["a", "b"], "metric": "vqa"}, "metric vqa needs 4 answers or more"),
        ({"question": "Q?", "answer": "z", "choices": ["x", "y"]}, "answer 'z' is none of the letters A, B"),
        ({"question": "Q?", "answer": "A", "choices": ["B", "A"]}, "may mean the options A and B; give the letter"),
        ({"question": "Q?", "answer": "A", "choices": ["x"]}, "no list or object of 2 to 25 options"),
        ({"question": "Q?", "answer": "A", "choices": {"1": "x", "2": "y"}}, "'1' is none of the letters"),
        ({"question": "Q?", "answer": "A", "choices": 5}, "choices is 5, no list or object of 2 to 25 options"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "must begin with a turn from 'human' and one from 'gpt'"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        sample_of_row(row, 0)


def test_bad_lines_are_named_by_file_and_line(tmp_path: Path) -> None:
    good = {"image": "a.png", "question": "Q?", "answer": "x"}
    listed = tmp_path / "my.json"
    listed.write_text(json.dumps([good, good])[:-1] + ',\n\n {"question": "Q?"}, \n{"question":\n 7},\n5]')
    assert [line.partition(": ")[0] for line in open_own_file(listed).bad_lines] == [
        f"{listed} line {number}" for number in (3, 4, 6)
    ]
    for name in ("my.jsonl", "lines.json"):  # POPE's files are JSONL by a name of JSON
        lines = tmp_path / name
        lines.write_text(f'{json.dumps(good)}\n\n{{oops\n{json.dumps(good)}\n[1]\n{{"conversations": 5}}\n')
        own = open_own_file(lines)
        assert len(own.samples) == 2 and list(own.bad_lines) == [
            f"{lines} line 3: it is not JSON (Expecting property name enclosed in double quotes, column 2)",
            f"{lines} line 5: [1] is no object with `question` and `answer`",
            f"{lines} line 6: conversations must be a list of {{'from': 'human' or 'gpt', 'value': text}}",
        ]
        assert f"  left out: {own.bad_lines[0]}" in list(own.lines())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("[{]", "my.json: it is not JSON (Expecting property name"),
        ('{\n"questions": []}', "my.json: it holds a dict, not a list of questions"),
        ("[]", "my.json has no usable row: it is empty"),
        ('[{"question": "Q?"}]', "my.json line 1: there is no answer"),
    ],
)
def test_a_file_without_questions_ends_in_one_line(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as end:
        evaluate(["--model-path", "nowhere", "--tasks", str(path), "--output-dir", str(tmp_path / "out")])
    last = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and message in last and str(path) in last


def test_the_name_is_of_the_file_and_its_content(tmp_path: Path) -> None:
    rows = [{"question": "Q?", "answer": "x"}]
    first, second = (write(tmp_path / folder / "my set.json", rows) for folder in "ab")
    name = open_own_file(first).name
    assert re.fullmatch(r"my_set-[0-9a-f]{8}", name) and open_own_file(second).name == name
    write(second, [{"question": "Q?", "answer": "y"}])
    assert open_own_file(second).name != name != open_own_file(first, tail="Be short.").name
    assert open_own_file(first, metric="contains").name == name  # the same answers, scored otherwise
    assert open_own_file(write(tmp_path / "Вопросы.json", rows)).name.startswith("questions-")


def test_ids_that_repeat_are_told_apart(tmp_path: Path) -> None:
    rows = [{"id": id_, "question": "Q?", "answer": "x"} for id_ in ("7", 7, "7#2", "8")]
    assert [s.sample_id for s in open_own_file(write(tmp_path / "q.json", rows)).samples] == ["7", "7#2", "7#2#2", "8"]


# ----- Scores ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "text", "answers", "value"),
    [
        ("exact", " A Cat. ", ["a cat"], 1),
        ("exact", "a cat.", ["dog", "A CAT"], 1),
        ("exact", "It is a cat", ["cat"], 0),
        ("contains", "It is a  black\ncat.", ["black cat"], 1),
        ("contains", "north", ["no"], 0),
        ("contains", "It costs $5.", ["$5"], 1),
        ("contains", "15", ["5"], 0),
        ("contains", "x", [" . "], 0),
    ],
)
def test_whole_and_contained_answers(metric: str, text: str, answers: list[str], value: float) -> None:
    assert earned(metric, text, answers, {}) == value


def test_vqa_and_choices_give_what_the_public_scorers_gave() -> None:
    cases = json.loads((SCORERS / "textvqa.json").read_text())["cases"]
    listed = [
        ([answers] * 10 if isinstance(answers, str) else answers, text, value) for text, answers, value, _ in cases
    ]
    assert len(listed) > 100
    for answers, text, value in listed:
        assert earned("vqa", text, answers, {}) == pytest.approx(value), (text, answers)
    cases = json.loads((SCORERS / "mmbench.json").read_text())["cases"]
    assert len(cases) > 100
    for _, answer, text, options, *_, inferred in cases:
        row = {"question": "Q?", "answer": answer, "choices": options}
        if options.count(answer) == 0:
            sample = sample_of_row(row, 0)
            assert earned("choice", text, sample.details["answers"], sample.details["options"]) == (inferred == answer)


def test_the_flag_and_the_page_name_the_metrics(tmp_path: Path) -> None:
    assert tuple(METRICS) == _METRICS
    assert all(f"\n| `{metric}` | " in (ROOT / "docs/own_questions.md").read_text() for metric in METRICS)
    [shown] = [text for language, text in blocks("docs/own_questions.md") if language == "json"]
    (tmp_path / "my.json").write_text(shown)
    own = open_own_file(tmp_path / "my.json")
    assert [sample.details["metric"] for sample in own.samples] == ["exact", "exact", "choice"] and not own.bad_lines
