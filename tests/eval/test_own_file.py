"""`--tasks my.json` is a task like any other: it goes on, is shared by processes, and training uses it."""

from __future__ import annotations

import csv
import json
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
from llava.eval.report.command import main as report
from llava.eval.tasks import TaskDataError
from llava.eval.tasks.own_file import open_own_file, task_of_row
from llava.inference import Inference
from llava.train.validation import answer_accuracy
from tests.eval.test_own_rows import write

ROOT = Path(__file__).parents[2]
TINY = ROOT / "playground" / "tiny" / "model"


def results_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())["rows"]
    return rows


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
