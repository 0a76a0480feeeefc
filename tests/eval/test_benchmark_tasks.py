"""Benchmarks' loaders on small files of the published schema, their scores, and the files for their servers."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from llava.eval.answers_key import prompts_fingerprint
from llava.eval.submissions import write_mmbench_submission, write_mmvet_results, write_vizwiz_submission
from llava.eval.submissions import write_vqa_submission as write_vqa
from llava.eval.tasks import JudgedTask, LoadedTask, Sample, Task, TaskDataError, available_tasks, get_task
from llava.eval.xlsx import workbook
from tests.eval import layout

BENCHMARKS = sorted(set(available_tasks()) - {"crowded_dev", "crowded_test", "tiny_pope", "tiny_vqa"})


def load(name: str, root: Path) -> tuple[Task, LoadedTask]:
    task = get_task(name)
    loaded = task.load(root)
    return task, loaded


def answers(samples: list[Sample], *texts: str) -> dict[str, str]:
    return {sample.sample_id: text for sample, text in zip(samples, texts, strict=True)}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_files_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(TaskDataError, match=rf"{tmp_path}.* docs/benchmarks.md"):
        get_task(name).load(tmp_path)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_describes_itself(name: str) -> None:
    task = get_task(name)
    lengths = (64,) if name == "activitynet_qa_lmms" else (128, 1024)  # lmms-eval's, and LLaVA's
    assert task.description and task.published_size and task.max_new_tokens in lengths
    assert task.size_note([]) == f"{name}: 0 questions, the published split has {task.published_size}"


def gqa_row(answer: str, structural: str) -> dict[str, Any]:
    types = {"structural": structural, "semantic": "obj"}
    return {"question": "What?", "answer": answer, "imageId": "n1", "types": types, "isBalanced": True}


def test_main_scores_are_among_the_scores(tmp_path: Path) -> None:
    layout.write_pope(tmp_path, [{"question_id": 1, "image": "a.jpg", "text": "Is there a cat?", "label": "yes"}])
    layout.write_mme(tmp_path, {"count/1": ["One?\tYes", "Two?\tNo"]})
    layout.write_mmbench(tmp_path, [mmbench_row(1, ["a", "b"], "A")])
    for name in ("pope", "mme", "mmbench"):
        task, loaded = load(name, tmp_path)
        assert task.main_score != "accuracy" and isinstance(task.score(loaded.samples, {})[task.main_score], float)


def test_gqa(tmp_path: Path) -> None:
    path = layout.write_gqa(tmp_path, [gqa_row("cat", "query"), gqa_row("yes", "verify"), {"question": "What?"}])
    task, loaded = load("gqa", tmp_path)
    assert loaded.bad_rows == [f"{path} row 2: missing field 'imageId'"]
    assert loaded.samples[0].images == (tmp_path / "gqa" / "data" / "images" / "n1.jpg",)
    scores = task.score(loaded.samples, answers(loaded.samples, "Cat.", "no"))
    assert (scores["accuracy"], scores["open"], scores["binary"]) == (0.5, 1.0, 0.0)
    assert task.score(loaded.samples, {"1": "Yes"})["accuracy"] == 0.5  # what was not answered is wrong
    assert task.size_note(loaded.samples) == "gqa: 2 questions, the published split has 12578"


def test_pope(tmp_path: Path) -> None:
    rows = [
        {"question_id": n, "image": "a.jpg", "text": f"Is there a {n}?", "label": label}
        for n, label in enumerate(("yes", "no", "yes", "maybe"))
    ]
    layout.write_pope(tmp_path, rows, rows[:2])
    task, loaded = load("pope", tmp_path)
    assert len(loaded.bad_rows) == 1 and "label 'maybe'" in loaded.bad_rows[0]
    assert [sample.group for sample in loaded.samples] == ["random"] * 3 + ["popular"] * 2 + ["adversarial"] * 2
    texts = {sample.sample_id: "Yes." for sample in loaded.samples}
    scores = task.score(loaded.samples, texts)
    assert scores["f1_by_split"] == pytest.approx({"random": 0.8, "popular": 2 / 3, "adversarial": 2 / 3})
    assert scores["f1"] == pytest.approx((0.8 + 4 / 3) / 3) and scores["yes_ratio"] == 1.0
    assert task.score(loaded.samples, {})["accuracy"] == 0.0
    assert task.size_note([loaded.samples[0]] * 8_910) is None


def test_mme(tmp_path: Path) -> None:
    asked = " Please answer yes or no."
    pairs = {
        "code_reasoning/0020": [f"Is it Python?{asked}\tYes", f"Is it C++?{asked}\tNo"],
        "celebrity/tt1": [f"Is it A?{asked}\tYes", f"Is it B?{asked}\tNo", "no tab"],
    }
    release = layout.write_mme(tmp_path, pairs)
    task, loaded = load("mme", tmp_path)
    assert len(loaded.bad_rows) == 1 and "'no tab'" in loaded.bad_rows[0]
    assert [sample.sample_id for sample in loaded.samples] == [
        *("celebrity/tt1#0", "celebrity/tt1#1", "code_reasoning/0020#0", "code_reasoning/0020#1")
    ]
    assert loaded.samples[0].images == (release / "celebrity" / "images" / "tt1.png",)
    fingerprint = prompts_fingerprint(loaded.samples)
    (release / "celebrity" / "images" / "tt1.png").rename(tmp_path / "tt1.png")
    assert prompts_fingerprint(task.load(tmp_path).samples) == fingerprint, "an image that is missing for now"
    scores = task.score(loaded.samples, answers(loaded.samples, "yes", "Yes", "Yes", "no, it is not"))
    assert scores["perception"] == 50.0 and scores["cognition"] == 200.0 and scores["total"] == 250.0


@pytest.mark.parametrize("rosetta", [True, False])
def test_textvqa(tmp_path: Path, rosetta: bool) -> None:
    row = {
        "question_id": 1,
        "image_id": "ab",
        "question": "what BRAND is it?",
        "answers": ["nokia"] * 9 + ["a Nokia"],
        "ocr_tokens": ["NOKIA", "5G"],
    }
    layout.write_textvqa(tmp_path, [row], rosetta=rosetta)
    task, loaded = load("textvqa", tmp_path)
    assert loaded.samples[0].prompt.startswith("What brand is it?\nReference OCR token: NOKIA, 5G\nAnswer the")
    assert loaded.samples[0].images == (tmp_path / "textvqa" / "train_images" / "ab.jpg",)
    assert task.score(loaded.samples, {"1": "Nokia."}) == {"accuracy": 1.0}
    assert task.score(loaded.samples, {"1": "samsung"}) == {"accuracy": 0.0}


def test_textvqa_names_an_image_without_tokens(tmp_path: Path) -> None:
    row = {"question_id": 1, "image_id": "ab", "question": "what?", "answers": ["x"] * 10, "ocr_tokens": []}
    layout.write_textvqa(tmp_path, [row, row | {"question_id": 2}])
    layout.write_json(tmp_path / "textvqa" / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": []})
    with pytest.raises(TaskDataError, match="no OCR tokens of image 'ab'"):
        get_task("textvqa").load(tmp_path)
    assert len(get_task("textvqa_no_ocr").load(tmp_path).samples) == 2


def test_vqav2(tmp_path: Path) -> None:
    rows = [{"question_id": n, "image_id": 42, "question": "What?"} for n in (420, 421)]
    layout.write_vqav2(tmp_path, rows, [["two"] * 5 + ["three"] * 5, ["yes"] * 10])
    task, loaded = load("vqav2_val", tmp_path)
    assert loaded.samples[0].images == (tmp_path / "vqav2" / "val2014" / "COCO_val2014_000000000042.jpg",)
    scores = task.score(loaded.samples, answers(loaded.samples, "2", "yes"))
    assert scores == {"accuracy": 1.0, "accuracy_by_group": {"other": 1.0}, "raw_accuracy": 1.0}
    scores = task.score(loaded.samples, answers(loaded.samples, "Two.", "Yes"))
    assert (scores["accuracy"], scores["raw_accuracy"]) == (1.0, 0.5)
    assert task.parts(loaded.samples, answers(loaded.samples, "Two.", "Yes")).total == 1.0
    layout.write_vqav2(tmp_path, rows, [[""] * 10, ["The"] * 9 + ["."]])  # nothing is left of these
    scores = task.score(task.load(tmp_path).samples, {})
    assert (scores["accuracy"], scores["raw_accuracy"]) == (0.0, 0.0), "silence earns nothing"


def test_vqav2_testdev_is_written_for_evalai(tmp_path: Path) -> None:
    rows = [{"question_id": n, "image_id": 7, "question": "What?"} for n in (1, 2)]
    layout.write_vqav2(tmp_path, rows)
    task, loaded = load("vqav2_testdev", tmp_path)
    texts = answers(loaded.samples, "A Dog.", "two")
    assert not task.has_answers and task.score(loaded.samples, texts) == {}
    path = task.write_submission(loaded.samples, texts, tmp_path / "out")
    assert path is not None
    expected = [{"question_id": 1, "answer": "dog"}, {"question_id": 2, "answer": "2"}]
    assert json.loads(path.read_text()) == expected
    everything = {"questions": [{"question_id": n} for n in (1, 2, 3)]}
    layout.write_json(tmp_path / "vqav2" / "v2_OpenEnded_mscoco_test2015_questions.json", everything)
    task.write_submission(loaded.samples, texts, tmp_path / "out")
    assert json.loads(path.read_text()) == [*expected, {"question_id": 3, "answer": ""}]


def test_vizwiz(tmp_path: Path) -> None:
    layout.write_vizwiz(tmp_path, [{"image": "VizWiz_test_00000000.jpg", "question": "what is this? "}])
    task, loaded = load("vizwiz", tmp_path)
    texts = answers(loaded.samples, "The Unanswerable")
    path = task.write_submission(loaded.samples, texts, tmp_path / "out")
    assert path is not None and task.score(loaded.samples, texts) == {}
    assert json.loads(path.read_text()) == [{"image": "VizWiz_test_00000000.jpg", "answer": "unanswerable"}]
    given = [{"answer": "black", "answer_confidence": "yes"}] * 10
    layout.write_vizwiz(tmp_path, [{"image": "v.jpg", "question": "x", "answers": given, "answer_type": "other"}])
    task, loaded = load("vizwiz_val", tmp_path)
    assert loaded.samples[0].images == (tmp_path / "vizwiz" / "val" / "v.jpg",)
    # As VQAv2's: both sides through EvalAI's processor, also where all ten annotators agree.
    for said in ("Black", "BLACK.", "the black"):
        assert task.score(loaded.samples, {"v.jpg": said})["accuracy"] == 1.0


def seed_row(number: int, kind: int, data_type: str) -> dict[str, Any]:
    choices = {f"choice_{letter}": letter for letter in "abcd"}
    more = {"question_type_id": kind, "data_type": data_type, "data_id": f"img{number}"}
    return {"question_id": str(number), "question": "Which?", "answer": "B"} | choices | more


def test_seed(tmp_path: Path) -> None:
    layout.write_seed(tmp_path, [seed_row(1, 1, "image"), seed_row(2, 5, "image"), seed_row(3, 10, "video")])
    task, loaded = load("seed", tmp_path)
    folder = tmp_path / "seed_bench"
    assert [sample.images[0] for sample in loaded.samples[1:]] == [
        folder / "SEED-Bench-image" / "img2",
        folder / "SEED-Bench-video-image" / "10_3.png",
    ]
    texts = answers(loaded.samples, "B", "B. b", "B")
    scores = task.score(loaded.samples, texts)
    assert (scores["accuracy"], scores["image_accuracy"], scores["video_accuracy"]) == (pytest.approx(2 / 3), 0.5, 1.0)
    assert len(load("seed_image", tmp_path)[1].samples) == 2 and len(load("seed_video", tmp_path)[1].samples) == 1
    path = task.write_submission(loaded.samples, texts, tmp_path)
    assert path is not None
    assert [json.loads(line)["prediction"] for line in path.read_text().splitlines()] == ["B", "B. b", "B"]


def test_scienceqa(tmp_path: Path) -> None:
    row = {"question": "Which?", "choices": ["x", "y"], "answer": 1, "hint": "", "image": None}
    layout.write_scienceqa(tmp_path, [row, row | {"image": "image.png", "hint": "See."}, row | {"choices": 3}])
    task, loaded = load("sqa_full", tmp_path)
    assert len(loaded.bad_rows) == 1 and [len(sample.images) for sample in loaded.samples] == [0, 1]
    assert loaded.samples[1].images == (tmp_path / "scienceqa" / "images" / "test" / "1" / "image.png",)
    scores = task.score(loaded.samples, answers(loaded.samples, "B. y", "C"))
    assert (scores["accuracy"], scores["img_accuracy"]) == (0.5, 0.0)
    assert [sample.sample_id for sample in load("sqa_img", tmp_path)[1].samples] == ["1"]


def mmbench_row(index: int, options: list[str], answer: str, **more: str) -> dict[str, Any]:
    return {
        "index": index,
        "question": "What\ncolour?",
        "answer": answer,
        **dict(zip("ABCD", options, strict=False)),
        **more,
    }


def test_mmbench(tmp_path: Path) -> None:
    rows = [
        mmbench_row(7, ["red", "blue"], "A", hint="nan"),
        mmbench_row(1_000_007, ["blue", "red"], "B"),
        mmbench_row(8, ["N/A", "red"], "B", hint='See the "sign".'),
    ]
    path = layout.write_mmbench(tmp_path, rows)
    task, loaded = load("mmbench", tmp_path)
    assert not loaded.bad_rows
    first, rotation, other = loaded.samples
    assert first.images[0] == layout.png() and first.images[0].name == f"{path.name}#7"
    assert first.images[0] is rotation.images[0]  # rotations share an image, so it is encoded once
    assert first.prompt.startswith("What\ncolour?\nA. red\nB. blue\n") and other.prompt.startswith(
        'See the "sign".\nWhat'
    )
    assert other.details["options"] == {"B": "red"} and "red" not in other.prompt  # see the next test
    texts = answers(loaded.samples, "A", "The answer is A.", "?")
    scores = task.score(loaded.samples, texts)
    assert (scores["vanilla_accuracy"], scores["circular_accuracy"]) == (0.5, 0.0)
    assert task.score(loaded.samples, texts | {"1000007": "red"})["circular_accuracy"] == 0.5
    book = task.write_submission(loaded.samples, texts, tmp_path)
    assert book is not None
    head, *cells = read_sheet(book.read_bytes())
    assert " ".join(head.values()) == "index question A B C D prediction answer split"
    assert cells[1] == {
        "A3": "1000007",
        "B3": "What\ncolour?",
        "C3": "blue",
        "D3": "red",
        "G3": "The answer is A.",
        "H3": "B",
        "I3": "dev",
    }


def test_mmbench_image_by_reference_and_bad_image(tmp_path: Path) -> None:
    path = layout.write_mmbench(tmp_path, [mmbench_row(1, ["a", "b"], "A"), mmbench_row(2, ["a", "b"], "A")])
    lines = path.read_text(encoding="utf-8").split("\n")
    image = next(cell for cell in lines[1].split("\t") + lines[2].split("\t") if len(cell) > 64)
    text = path.read_text(encoding="utf-8")
    head, tail = text.rsplit(image, 1)
    path.write_text(head + "1" + tail, encoding="utf-8")
    samples = get_task("mmbench").load(tmp_path).samples
    assert samples[0].images[0] == samples[1].images[0] == layout.png()
    path.write_text(head + "!" * 80 + tail, encoding="utf-8")
    loaded = get_task("mmbench").load(tmp_path)
    assert [sample.sample_id for sample in loaded.samples] == ["1"] and "#2 is not base64" in loaded.bad_rows[0]


def mmmu_row(number: int, **more: Any) -> dict[str, Any]:
    image = {"bytes": layout.png(), "path": "x.png"}
    row = {"id": f"validation_Math_{number}", "question": "See <image 1>.", "options": "['1', '2']", "image_1": image}
    return row | {"answer": "B", "question_type": "multiple-choice"} | more


def test_mmmu(tmp_path: Path) -> None:
    rows = [
        mmmu_row(1),
        mmmu_row(2, options="[]", answer="['24/7', '3.429']", question_type="short-answer"),
        mmmu_row(3, question="See <image 2>."),
    ]
    layout.write_mmmu(tmp_path, rows)
    task, loaded = load("mmmu_val", tmp_path)
    assert len(loaded.bad_rows) == 1 and "validation_Math_3 names image_2, which is empty" in loaded.bad_rows[0]
    scores = task.score(loaded.samples, answers(loaded.samples, "(B)", "so x is 3.429"))
    assert (scores["accuracy"], scores["drawn_ratio"]) == (1.0, 0.0)
    assert scores["accuracy_by_domain"] == {"Science": 1.0}
    assert task.score(loaded.samples, {})["accuracy"] == 0.0  # a question without an answer draws nothing


def test_mmmu_names_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    path = layout.write_mmmu(tmp_path, [mmmu_row(1)])
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(TaskDataError, match=r"validation-00000-of-00001\.parquet is not a readable parquet"):
        get_task("mmmu_val").load(tmp_path)


def test_mmvet(tmp_path: Path) -> None:
    row = {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]}
    layout.write_mmvet(tmp_path, [row, row])
    task, loaded = load("mmvet", tmp_path)
    assert isinstance(task, JudgedTask)
    texts = answers(loaded.samples, "x = -1", "x = 5")
    assert task.score(loaded.samples, texts) == {} and math.isnan(task.is_correct(loaded.samples[0], "x = -1"))
    assert task.grading_prompt(loaded.samples[0], "x = -1").endswith("\nWhat is x? | -1 <AND> -5 | x = -1 | ")
    grades = {"v1_0": [task.read_grade("0.5"), task.read_grade("1.0")], "v1_1": [0.0, task.read_grade("sorry")]}
    scores = task.score_grades(loaded.samples, grades)
    assert (scores["score"], scores["missing"]) == (62.5, 1.0)
    path = task.write_submission(loaded.samples, texts, tmp_path)
    assert path is not None and json.loads(path.read_text()) == {"v1_0": "x = -1", "v1_1": "x = 5"}


def test_llava_bench(tmp_path: Path) -> None:
    rows = [
        {"question_id": number, "image": "001.jpg", "category": category, "text": "What?"}
        for number, category in enumerate(("conv", "detail"))
    ]
    layout.write_llava_bench(tmp_path, rows)
    task, loaded = load("llava_bench", tmp_path)
    assert isinstance(task, JudgedTask)
    prompt = task.grading_prompt(loaded.samples[1], "Mine.")
    assert prompt.startswith("[Context]\nCaption of 001.jpg.\n\n[Question]\nWhat?\n\n[Assistant 1]\nReference 1.\n")
    grades = {
        "0": [task.read_grade("8 6"), task.read_grade("8 8")],
        "1": [task.read_grade("10 5"), task.read_grade("?")],
    }
    scores = task.score_grades(loaded.samples, grades)
    # First run: (6 + 5) / (8 + 10); second: 8 / 8, the other grade being missing.
    assert scores["score"] == pytest.approx((61.1 + 100.0) / 2)
    assert scores["score_by_category"] == {"conv": pytest.approx((75.0 + 100.0) / 2), "detail": 50.0}
    layout.write_jsonl(tmp_path / "llava-bench-in-the-wild" / "answers_gpt4.jsonl", [{"question_id": 0, "text": "x"}])
    assert "there is no reference of 1" in get_task("llava_bench").load(tmp_path).bad_rows[0]


def test_submissions_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    with pytest.raises(ValueError, match="id 1 is there twice"):
        write_vqa(path, [1, 1], {})
    with pytest.raises(ValueError, match="the answer to 3 belongs to no question"):
        write_vqa(path, [1, 2], {3: "x"})
    with pytest.raises(ValueError, match=r"1 of 2 images have no answer, the first is b\.jpg"):
        write_vizwiz_submission(path, ["a.jpg", "b.jpg"], {"a.jpg": "x"})
    with pytest.raises(ValueError, match=r"MM-Vet's ids are v1_<number>, got 'v2_1'"):
        write_mmvet_results(path, {"v2_1": "x"})
    with pytest.raises(ValueError, match="row 1 has no index"):
        write_mmbench_submission(path, [{"index": 1}, {"question": "?"}])
    assert not path.exists()


def read_sheet(book: bytes) -> list[dict[str, str]]:
    """The rows of a workbook's sheet, texts by place."""
    namespace = {"s": "http://schemas.openxmlformats.org/spreadsheetml/2006/main"}
    sheet = ElementTree.fromstring(zipfile.ZipFile(io.BytesIO(book)).read("xl/worksheets/sheet1.xml"))
    return [
        {cell.attrib["r"]: "".join(cell.itertext()) for cell in row.findall("s:c", namespace)}
        for row in sheet.findall(".//s:row", namespace)
    ]


def test_workbook_is_the_same_every_time_and_holds_what_xml_can() -> None:
    cells = [["index", "A"], [1, "a<b & \x00c\n\U0001f600\ud800"], [2, None], [3, "x" * 40_000]]
    book = workbook(cells)
    assert book == workbook(cells)
    expected = [{"A1": "index", "B1": "A"}, {"A2": "1", "B2": "a<b & c\n\U0001f600"}, {"A3": "2"}]
    assert read_sheet(book) == [*expected, {"A4": "3", "B4": "x" * 32_767}]
    assert list(read_sheet(workbook([list(range(30))]))[0])[25:28] == ["Z1", "AA1", "AB1"]
