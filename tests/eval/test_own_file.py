"""`--tasks my.json`: what rows mean, how they are scored, and that a file of one's own is a task like any other."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava.data.dataset import LlavaDataset
from llava.eval.command import main as evaluate
from llava.eval.metrics.own_answers import METRICS, earned
from llava.eval.report.command import main as report
from llava.eval.session import _METRICS
from llava.eval.tasks import TaskDataError
from llava.eval.tasks.own_file import open_own_file, task_of_row
from llava.eval.tasks.own_rows import sample_of_row
from llava.inference import Inference
from llava.train.validation import answer_accuracy
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


# ----- A task like any other ---------------------------------------------------


@pytest.fixture(scope="module")
def own(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny questions as somebody may have written them, beside their images."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "images").symlink_to(tiny_data / "images")
    rows = [
        {"id": row["question_id"], "image": row["image"], "question": row["text"], "answer": row["answer"]}
        | {"type": row["kind"], "image": f"images/{row['image']}"}
        for row in json.loads((tiny_data / "eval_vqa.json").read_text())
    ]
    return write(folder / "my.json", rows)


def run(tasks: str, output: Path, *more: str, budgets: Sequence[str] = ("none", "visionzip:41+8")) -> int:
    words = ["--model-path", str(TINY), "--tasks", tasks, "--device", "cpu", "--latency-repeats", "0"]
    words += [word for budget in budgets for word in ("--compression", budget)]
    return evaluate([*words, "--output-dir", str(output), *more])


def test_it_scores_as_the_task_of_the_same_questions_and_goes_on(
    own: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{own},tiny_vqa", tmp_path, "--data-root", str(tiny_data), "--limit", "8") == 0
    said = capsys.readouterr().out
    name = open_own_file(own).name
    assert f"{own}: 20 questions about 5 pictures; the task {name}\n  metric exact, 20 of 20: " in said
    rows = {(row["task"], row["compression"]): row for row in results_of(tmp_path)}
    for budget in ("none", "visionzip:41+8"):
        mine, theirs = rows[name, budget], rows["tiny_vqa", budget]
        for field in ("accuracy", "accuracy_by_group", "retention", "tokens", "n", "encodes_saved"):
            assert mine[field] == theirs[field], field
        assert mine["accuracy"] > 0
    assert rows[name, "none"]["own_file"] == {"path": str(own), "metric": "", "tail": ""}

    files = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    cut = tmp_path / "answers" / name / "none.jsonl"
    cut.write_bytes(cut.read_bytes()[:-30])
    assert run(str(own), tmp_path, "--limit", "8") == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")} == files

    assert report([str(tmp_path), "--no-picture", "--resamples", "100", "--output", str(tmp_path / "report")]) == 0
    assert f"{name}: no intervals" not in capsys.readouterr().out
    with (tmp_path / "report" / "report.csv").open() as file:
        [line] = [line for line in csv.DictReader(file) if (line["task"], line["tokens"]) == (name, "49")]
    assert float(line["low"]) <= float(line["retention"]) <= float(line["high"])
    sides = [str(tmp_path / "answers" / name / f"{file}.jsonl") for file in ("none", "visionzip_41+8")]
    assert report(["--diff", *sides, "--output", str(tmp_path)]) == 0
    assert f"{name}: 8 questions that both answer" in capsys.readouterr().out


def test_a_changed_file_has_answers_of_its_own_and_the_old_ones_say_so(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, images = tmp_path / "my.json", str(own.parent)
    path.write_bytes(own.read_bytes())
    more = ("--image-folder", images, "--limit", "4")
    assert run(str(path), tmp_path / "out", *more) == 0
    [before] = {row["task"] for row in results_of(tmp_path / "out")}
    rows = json.loads(path.read_text())
    rows[0]["answer"] = "changed"
    write(path, rows)
    assert run(str(path), tmp_path / "out", *more) == 0
    made = results_of(tmp_path / "out")
    assert len({row["task"] for row in made}) == 2 and {row["answered"] for row in made} == {4}
    capsys.readouterr()
    folder = tmp_path / "out"
    assert report([str(folder), "--no-picture", "--resamples", "50", "--output", str(tmp_path / "report")]) == 0
    assert f"{before}: no intervals, its data are not here ({path} has changed: it is " in capsys.readouterr().out
    row = next(row for row in made if row["task"] == before)
    with pytest.raises(TaskDataError, match="has changed"):
        task_of_row(row)
    path.write_bytes(own.read_bytes())
    assert task_of_row(row).name == before
    path.rename(tmp_path / "out" / "my.json")
    assert task_of_row(row, tmp_path / "out").name == before


def test_another_metric_scores_the_same_answers(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(own), tmp_path, "--limit", "6", budgets=("none",)) == 0
    [row] = results_of(tmp_path)
    answers = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    assert run(str(own), tmp_path, "--limit", "6", "--metric", "contains", budgets=("none",)) == 0
    assert "metric contains, 20 of 20" in capsys.readouterr().out
    [again] = results_of(tmp_path)
    assert (row["rules"], again["rules"]) == ("exact", "contains") and again["answered"] == 6
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")} == answers


def test_processes_that_share_the_questions_end_in_the_same_file(own: Path, tmp_path: Path) -> None:
    limit = ("--limit", "6")
    assert run(str(own), tmp_path / "one", *limit, budgets=("none",)) == 0
    for chunk in ("0", "1"):
        assert (
            run(str(own), tmp_path / "two", *limit, "--num-chunks", "2", "--chunk-idx", chunk, budgets=("none",)) == 0
        )
    one, two = (next((tmp_path / name).rglob("none.jsonl")).read_bytes() for name in ("one", "two"))
    assert one == two and len(results_of(tmp_path / "two")) == 1


@pytest.mark.slow
def test_two_processes_of_torchrun_end_in_the_same_file(own: Path, tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "llava.eval"]
    words = [
        "--model-path",
        str(TINY),
        "--tasks",
        str(own),
        "--device",
        "cpu",
        "--latency-repeats",
        "0",
        "--limit",
        "8",
    ]
    words += ["--limit", "8", "--compression", "none", "--output-dir", str(tmp_path / "two")]
    command = [sys.executable, *launch, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("20 questions about 5 pictures") == 1
    assert run(str(own), tmp_path / "one", "--limit", "8", budgets=("none",)) == 0
    one, two = (next((tmp_path / name).rglob("none.jsonl")).read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("tasks", "more", "message"),
    [
        ("{own},{copy}", (), "holds the same questions as another file: ask them apart"),
        ("tiny_vqa", ("--metric", "vqa"), "--metric and --question-tail are for questions of your own"),
        ("{own}", ("--metric", "choice"), "metric choice needs the options"),
        ("my", (), "unknown task 'my'"),
    ],
)
def test_wrong_flags_end_in_one_line(
    tasks: str, more: Sequence[str], message: str, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "my.json"
    copy.write_bytes(own.read_bytes())
    with pytest.raises(SystemExit) as end:
        run(tasks.format(own=own, copy=copy), tmp_path / "out", *more)
    assert end.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


def test_pictures_that_are_not_there_are_missed_before_the_model_is_loaded(own: Path, tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    path.write_bytes(own.read_bytes())
    with pytest.raises(SystemExit, match=rf"not one picture is there \({tmp_path}/images/eval_0.png\); --image-root"):
        run(str(path), tmp_path / "out")


# ----- Training ----------------------------------------------------------------


def test_training_answers_and_scores_by_the_same_code(own: Path, tmp_path: Path) -> None:
    rows = json.loads(own.read_text())[:10]
    records = [
        {"id": str(row["id"]), "image": row["image"]}
        | {
            "conversations": [
                {"from": "human", "value": f"<image>\n{row['question']}"},
                {"from": "gpt", "value": row["answer"].upper() + "."},
            ]
        }
        for row in rows
    ]
    records[3]["conversations"][1]["value"] = ""  # nothing to compare with: wrong
    file = write(tmp_path / "held_out.json", records)
    assert run(str(file), tmp_path / "out", "--image-root", str(own.parent), budgets=("none",)) == 0
    [row] = results_of(tmp_path / "out")
    assert row["n"] == 9 and len(row["bad_rows"]) == 1
    inference = Inference.load(TINY, device="cpu")
    dataset = LlavaDataset.__new__(LlavaDataset)
    dataset.image_folder = own.parent
    alone = SimpleNamespace(
        process_index=0, num_processes=1, device=torch.device("cpu"), reduce=lambda found, reduction: found
    )
    inference.model.set_compression(None)
    found = answer_accuracy(inference, records, dataset, alone, 8)
    assert found["questions"] == 10 and found["accuracy"] * 10 == pytest.approx(row["accuracy"] * 9)
    assert row["accuracy"] > 0
