"""Benchmarks beyond the paper's: loaders on small files of the published schema, prompts, scores, what tools take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llava.eval.report.table import build_table
from llava.eval.sources.parquet_source import ParquetSource
from llava.eval.submissions import write_mmstar_submission
from llava.eval.tasks import TaskDataError, get_task
from llava.eval.tasks.loading import load_task
from llava.results.paper import paper_columns
from llava.results.task_facts import facts_of
from tests.eval import layout
from tests.eval.hub_tables import BUILDERS, image, write_table
from tests.eval.test_benchmark_tasks import answers, load, read_sheet

BEYOND = ("chartqa", "mmstar", "ocrbench", "refcoco_plus_val", "refcoco_val", "refcocog_val")


def ocr_row(number: int, **more: Any) -> dict[str, Any]:
    row = {"dataset_name": "svt", "id": number, "image_path": "svt/1.png", "question": "What is written?"}
    return row | {"answers": "EXIT", "type": "Regular Text Recognition"} | more


def test_ocrbench(tmp_path: Path) -> None:
    formula = {"dataset_name": "HME100k", "type": "Handwritten Mathematical Expression Recognition"}
    rows = [
        ocr_row(7),
        ocr_row(7, answers=["Tea", "House"], type="Scene Text-centric VQA"),  # ids stand there several times
        ocr_row(9, **formula, answers=["x ^ 2\n"]),
        ocr_row(10, answers=[]),
        ocr_row(11, answers=[3]),
    ]
    path = layout.write_ocrbench(tmp_path, rows)
    task, loaded = load("ocrbench", tmp_path)
    assert loaded.bad_rows == [
        f"{path} row 3: no annotator's answer is given, so it cannot be scored",
        f"{path} row 4: answer is 3, which is not text",
    ]
    first = loaded.samples[0]
    # As OCRBench's scripts/LLaVA1_5.py asks.
    assert first.prompt == "What is written?\nAnswer the question using a single word or phrase."
    assert first.images == (tmp_path / "ocrbench" / "OCRBench_Images" / "svt" / "1.png",)
    texts = answers(loaded.samples, "the exit sign", "a teahouse", "$X^2$")
    scores = task.score(loaded.samples, texts)
    assert (scores["accuracy"], scores["points"]) == (pytest.approx(2 / 3), 2.0)
    assert scores["points_by_component"] == {
        "Handwritten Mathematical Expression Recognition": 0.0,
        "Scene Text-centric VQA": 1.0,
        "Text Recognition": 1.0,
    }
    assert task.parts(loaded.samples, texts).total == pytest.approx(2 / 3)
    written = task.write_submission(loaded.samples, texts, tmp_path / "out")
    assert written is not None
    known = {name: value for name, value in rows[0].items() if name != "answers"}
    assert json.loads(written.read_text())[0] == known | {"answers": ["EXIT"], "predict": "the exit sign"}


def test_chartqa(tmp_path: Path) -> None:
    row = {"imgname": "1.png", "query": "How many bars?", "label": "14"}
    layout.write_chartqa(tmp_path, [row, row | {"label": 14}], [row | {"label": "Yes"}, {"query": "?"}])
    task, loaded = load("chartqa", tmp_path)
    assert loaded.bad_rows == [
        f"{tmp_path / 'chartqa'} test_human.json row 1: answer is 14, which is not text",
        f"{tmp_path / 'chartqa'} test_augmented.json row 1: missing field 'imgname'",
    ]
    assert [sample.sample_id for sample in loaded.samples] == ["human/0", "augmented/0"]
    assert loaded.samples[0].images == (tmp_path / "chartqa" / "png" / "1.png",)
    assert loaded.samples[0].prompt == "How many bars?\nAnswer the question with a single word."  # lmms-eval's
    scores = task.score(loaded.samples, answers(loaded.samples, "14.5", "Yes."))
    assert scores == {"accuracy": 0.5, "accuracy_by_group": {"augmented": 0.0, "human": 1.0}}
    assert task.score(loaded.samples, {})["accuracy"] == 0.0
    (tmp_path / "chartqa" / "test_human.json").write_text("{}")
    with pytest.raises(ValueError, match=r"test_human\.json holds a dict, not a list"):
        task.load(tmp_path)


def star_row(index: int, **more: Any) -> dict[str, Any]:
    question = "<image 1> Which? \nOptions: A: red, B: blue, C: green, D: black\n"
    row = {"index": index, "question": question, "answer": "B", "category": "math", "l2_category": "geometry"}
    return row | more


def test_mmstar(tmp_path: Path) -> None:
    rows = [star_row(0), star_row(1, category="logical reasoning", l2_category="diagram reasoning")]
    bad = [star_row(2, answer="E"), star_row(3, category="maths"), star_row(4, image=b"")]
    path = layout.write_mmstar(tmp_path, [*rows, *bad])
    task, loaded = load("mmstar", tmp_path)
    assert [line.split(": ", 1)[1] for line in loaded.bad_rows] == [
        "question 2: answer 'E' is none of A, B, C, D",
        "question 3: category 'maths' is none of coarse perception, fine-grained perception, instance reasoning, "
        "logical reasoning, science & technology, math",
        "image is empty",
    ]
    assert load_task(task, tmp_path).samples == loaded.samples  # <image 1> is no placeholder
    first = loaded.samples[0]
    assert first.images[0] == layout.png() and first.images[0].name == f"{path.name}#0"
    # lmms-eval's line, which has no period.
    assert first.prompt.endswith("D: black\nAnswer with the option's letter from the given choices directly")
    texts = answers(loaded.samples, "(b) blue", "the answer is A")
    scores = task.score(loaded.samples, texts)
    assert scores["accuracy"] == 0.5 and scores["accuracy_by_category"] == {"logical reasoning": 0.0, "math": 1.0}
    assert [task.parse(text) for text in ("(b)", "Option D", "red", "")] == ["B", "D", "", ""]
    book = task.write_submission(loaded.samples, texts, tmp_path / "out")
    assert book is not None
    head, row, _ = read_sheet(book.read_bytes())
    assert " ".join(head.values()) == "index question answer category l2_category bench prediction"
    assert (row["A2"], row["C2"], row["F2"], row["G2"]) == ("0", "B", "MMBench", "(b) blue")
    with pytest.raises(ValueError, match="row 0 has no index"):
        write_mmstar_submission(tmp_path / "x.xlsx", [{"question": "?"}])


@pytest.mark.parametrize("field", ["index", "question", "answer", "category", "l2_category", "image"])
def test_an_empty_cell_of_mmstar_is_found_before_the_asking(field: str, tmp_path: Path) -> None:
    layout.write_mmstar(tmp_path, [star_row(0), star_row(1) | {field: None}])
    task, loaded = load("mmstar", tmp_path)
    assert [sample.sample_id for sample in loaded.samples] == ["0"] and "row 1" in loaded.bad_rows[0]
    task.score(loaded.samples, {"0": "B"})
    assert task.write_submission(loaded.samples, {"0": "B"}, tmp_path)


def test_mmstar_takes_images_as_cells_of_either_form(tmp_path: Path) -> None:
    layout.write_mmstar(tmp_path, [star_row(0, image={"bytes": layout.png("blue"), "path": "0.jpg"})])
    assert load("mmstar", tmp_path)[1].samples[0].images == (layout.png("blue"),)
    (tmp_path / "mmstar" / "mmstar.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"mmstar\.parquet is not a readable parquet file"):
        get_task("mmstar").load(tmp_path)


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog"])
def test_refcoco(name: str, tmp_path: Path) -> None:
    about = {"image": "data/coco/train2014/COCO_train2014_000000000042.jpg", "width": 640, "height": 480}
    rows = [
        about | {"sent": "left boy", "bbox": [64, 0, 192, 240]},
        about | {"sent": "A boy.", "bbox": [600, 440, 630, 470]},
        about | {"sent": "x", "bbox": [10, 10, 10, 20]},
        about | {"sent": "x"},
    ]
    path = layout.write_refcoco(tmp_path, rows, name)
    task, loaded = load(f"{name.replace('+', '_plus')}_val", tmp_path)
    assert loaded.bad_rows == [
        f"{path} row 2: bbox [10, 10, 10, 20] of a picture of 640 x 480 is not [left, top, right, bottom]",
        f"{path} row 3: missing field 'bbox'",
    ]
    first, second = loaded.samples
    asked = "Please provide the bounding box coordinate of the region this sentence describes: "
    assert [sample.prompt for sample in loaded.samples] == [f"{asked}left boy.", f"{asked}A boy."]
    assert first.images == (tmp_path / "refcoco" / "train2014" / "COCO_train2014_000000000042.jpg",)
    # 80 pixels of padding above: (0 + 80) / 640, (240 + 80) / 640.
    assert first.answer == "[0.100, 0.125, 0.300, 0.500]" and [first.group, second.group] == ["large", "small"]
    texts = answers(loaded.samples, "[0.1, 0.13, 0.3, 0.5]", "there")
    scores = task.score(loaded.samples, texts)
    assert (scores["accuracy"], scores["no_box_ratio"]) == (0.5, 0.5)
    assert scores["accuracy_by_size"] == {"large": 1.0, "small": 0.0}
    in_picture = task.score(loaded.samples, {"0": "[0.1, 0, 0.3, 0.5]", "1": "[0.9375, 0.9167, 0.9844, 0.9792]"})
    assert (in_picture["plain_accuracy"], in_picture["accuracy"]) == (1.0, 0.5)
    assert task.parts(loaded.samples, texts).total == 0.5
    assert task.parse("it is [0, 0.5,1, 1]") == "[0.0, 0.5, 1.0, 1.0]" and task.parse("there") == ""


def test_an_unreadable_picture_of_the_hub_is_a_row_that_is_named(tmp_path: Path) -> None:
    row = {"answer": ["boy"], "bbox": [1.0, 0.5, 2.0, 3.0], "file_name": "COCO_train2014_000000000042_0.jpg"}
    other = row | {"file_name": "COCO_train2014_000000000043_1.jpg", "image": {"bytes": b"no image", "path": None}}
    write_table(tmp_path / "hub", "RefCOCO", "val", [row | {"image": image("red")}, other])
    root, _ = ParquetSource(tmp_path / "hub", tmp_path / "cache").root_for("refcoco_val")
    loaded = get_task("refcoco_val").load(root)
    assert len(loaded.samples) == 1 and "of a picture of 0 x 0 is not" in loaded.bad_rows[0]


def test_a_split_that_chartqa_does_not_have_is_refused(tmp_path: Path) -> None:
    row = {"type": "human_val", "question": "?", "answer": "1", "image": image("red")}
    write_table(tmp_path / "hub", "ChartQA", "test", [row])
    with pytest.raises(TaskDataError, match="ChartQA: type 'human_val' is none of human_test, augmented_test"):
        ParquetSource(tmp_path / "hub", tmp_path / "cache").root_for("chartqa")


@pytest.mark.parametrize("name", BEYOND)
def test_they_are_none_of_the_papers_columns(name: str) -> None:
    facts = get_task(name).facts()
    assert not facts.in_means and facts.paper_column not in paper_columns() and facts.needs_image
    assert facts_of({"task": name, "task_facts": facts.to_json()}) == facts
    assert get_task("gqa").facts().in_means and facts_of({"task": "of_ones_own"}).in_means


def test_they_are_in_no_mean_beside_the_papers(tmp_path: Path) -> None:
    names = ("gqa", *BEYOND)
    rows = [
        {"task": task, "n": 9, "tokens": 576, "accuracy": score, "main_score": "accuracy", "compression": budget}
        | {"task_facts": get_task(task).facts().to_json()}
        for task in names
        for budget, score in (("none", 0.5), ("visionzip:54+10", 0.4 if task == "gqa" else 0.1))
    ]
    run = {"model": "m", "model_path": "m"}
    layout.write_json(tmp_path / "results.json", {"run": run, "rows": rows})
    table = build_table([tmp_path])
    assert table.tasks == table.high_image_tasks == ["gqa"]
    assert {column.task for column in table.columns} == set(names)
    assert table.lines[1].mean(table.tasks) == pytest.approx(80.0)
    assert sum("is none of the paper's benchmarks" in note for note in table.notes) == len(BEYOND)
    # Where there are no others, a mean over them is better than none.
    layout.write_json(tmp_path / "results.json", {"run": run, "rows": rows[2:]})
    assert set(build_table([tmp_path]).tasks) == set(BEYOND)


def test_images_that_rows_share_are_written_once(tmp_path: Path) -> None:
    BUILDERS["ocrbench"](tmp_path / "hub", tmp_path / "local")
    root, _ = ParquetSource(tmp_path / "hub", tmp_path / "cache").root_for("ocrbench")
    samples = get_task("ocrbench").load(root).samples
    assert len(samples) == 2 and len({sample.image_names for sample in samples}) == 1
    assert len(list((root / "ocrbench").rglob("*.png"))) == 1
