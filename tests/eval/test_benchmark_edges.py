"""Where the published files have edges: releases of several sizes, an id that stands twice, empty options, nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.eval.sources.published import PUBLISHED
from llava.eval.tasks import TaskDataError, get_task
from tests.eval import layout
from tests.eval.test_benchmark_tasks import answers, load, mmbench_row, read_sheet, seed_row


def test_a_task_without_a_usable_question_is_an_error(tmp_path: Path) -> None:
    layout.write_mmbench(tmp_path, [mmbench_row(1_000_001, ["a", "b"], "A")])
    with pytest.raises(TaskDataError, match=r"tsv: none of 1 rows is a question \(index below 1000000\)"):
        get_task("mmbench").load(tmp_path)
    layout.write_vizwiz(tmp_path, [{"image": "v.jpg", "question": "x", "answers": [], "answer_type": "other"}])
    layout.write_textvqa(
        tmp_path, [{"question_id": 1, "image_id": "ab", "question": "x", "answers": [], "ocr_tokens": []}]
    )
    layout.write_json(
        tmp_path / "vqav2" / "v2_mscoco_val2014_annotations.json",
        {"annotations": [{"question_id": 1, "answer_type": "other", "multiple_choice_answer": "x", "answers": []}]},
    )
    layout.write_json(
        tmp_path / "vqav2" / "v2_OpenEnded_mscoco_val2014_questions.json",
        {"questions": [{"question_id": 1, "image_id": 1, "question": "x"}]},
    )
    for name in ("vizwiz_val", "textvqa", "vqav2_val"):
        with pytest.raises(TaskDataError, match=r"no usable row: .* row 0: no annotator's answer is given"):
            get_task(name).load(tmp_path)
    for name in ("gqa", "tiny_vqa", "pope", "mmbench", "seed", "vqav2_val", "mme", "mmmu_val", "sqa_img"):
        with pytest.raises(ValueError, match=r"no question|none of 0 rows"):
            get_task(name).score([], {})


def test_seed_counts_both_rows_of_the_id_that_stands_twice(tmp_path: Path) -> None:
    first = seed_row(49914, 1, "image")
    rows = [first, first | {"answer": "C", "question": "Where?"}, seed_row(2, 5, "image")]
    path = layout.write_seed(tmp_path, rows)
    task, loaded = load("seed_image", tmp_path)
    assert not loaded.bad_rows and [s.sample_id for s in loaded.samples] == ["49914", "49914#2", "2"]
    texts = answers(loaded.samples, "B", "C", "A")
    assert task.score(loaded.samples, texts)["accuracy"] == pytest.approx(2 / 3)
    written = task.write_submission(loaded.samples, texts, tmp_path)
    assert written is not None
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert [(line["question_id"], line["prediction"]) for line in lines] == [("49914", "B"), ("49914", "C"), ("2", "A")]
    layout.write_seed(tmp_path, [*rows, first, seed_row(2, 5, "image")])
    repeated = [f"{path} row 3: id '49914' is there twice", f"{path} row 4: id '2' is there twice"]
    assert load("seed_image", tmp_path)[1].bad_rows == repeated


def test_seed_and_pope_say_which_release_they_are_over() -> None:
    seed, pope = get_task("seed").facts(), get_task("pope").facts()
    assert seed.size_note("seed", 19_242) is pope.size_note("pope", 8_910) is None
    later = "seed: 17990 questions, SEED-Bench.json of 2023-11-30; the papers' figures are over 19242, the first"
    assert str(seed.size_note("seed", 17_990)).startswith(later)
    assert seed.release(17_990) == "SEED-Bench.json of 2023-11-30" and seed.release(17_991) is None
    assert pope.release(9_000) == "POPE's main branch" and "8910, POPE's commit e3e3926" in str(
        pope.size_note("pope", 9_000)
    )
    assert get_task("seed_image").facts().releases == () and get_task("seed_video").facts().release(5_009)
    commit = get_task("pope").sources[0].split("/")[-3]
    assert {file.url.split("/")[-4] for file in PUBLISHED["pope"].files[:3]} == {commit}


@pytest.mark.parametrize("empty", ["", "None", "nan", "NaN"])
def test_an_empty_option_of_mmbench_is_skipped_and_the_later_ones_stay(tmp_path: Path, empty: str) -> None:
    layout.write_mmbench(tmp_path, [mmbench_row(1, ["red", empty, "blue", "green"], "C")])
    task, loaded = load("mmbench", tmp_path)
    [sample] = loaded.samples
    assert sample.details["options"] == {"A": "red", "C": "blue", "D": "green"}
    assert "\nA. red\nAnswer with" in sample.prompt  # LLaVA's prompt code stops at the empty one
    for said, right in (("C", 1.0), ("blue", 1.0), ("B", 0.0), ("green", 0.0)):
        assert task.is_correct(sample, said) == right, said
    book = task.write_submission(loaded.samples, {"1": "C"}, tmp_path)
    assert book is not None
    cells = read_sheet(book.read_bytes())[1]
    assert [cells.get(place) for place in ("C2", "D2", "E2", "F2", "G2")] == ["red", None, "blue", "green", "C"]
