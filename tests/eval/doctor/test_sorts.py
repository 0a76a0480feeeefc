"""What the doctor sorts questions by: grades of a judge, text in the picture, sizes of POPE's objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llava.eval.doctor.sizes import ObjectSizes
from llava.eval.doctor.slices import sorts_of
from llava.eval.tasks import Sample, get_task
from tests.eval import layout
from tests.eval.doctor.conftest import case_of, counts, examined, write_run


def test_judged_answers_flip_by_their_grades(tmp_path: Path) -> None:
    row = {"question": "Q?", "answer": "a"}
    rows = [row | {"imagename": f"{n}.png", "capability": ["rec", "ocr"][: 1 + n % 2]} for n in range(4)]
    layout.write_mmvet(tmp_path, rows)
    task = get_task("mmvet")
    samples = task.load(tmp_path).samples
    said = {budget: {sample.sample_id: budget for sample in samples} for budget in ("none", "random:64")}
    run = write_run(tmp_path / "run", tmp_path, {"mmvet": said})
    content = json.loads((run / "results.json").read_text())
    graded = {"none": [1.0, 1.0, 0.5, None], "random:64": [1.0, 0.2, 0.5, 0.7]}
    for result in content["rows"]:
        grades = {s.sample_id: [g] for s, g in zip(samples, graded[result["compression"]], strict=True)}
        lines = [{"judge": {}}, *({"question_id": key, "grades": values} for key, values in grades.items())]
        layout.write_jsonl(run / "grades" / "mmvet" / f"{result['compression'].replace(':', '_')}.jsonl", lines)
        result |= task.score_grades(samples, grades)
    layout.write_json(run / "results.json", content)
    case = case_of(examined(run, tmp_path), "mmvet")
    assert counts(case.whole) == (3, 1, 0, 2, 0), "what has no grade on one side is not compared"
    by_value = {(part.sort, part.value): counts(part) for part in case.slices}
    assert by_value["capability", "ocr"] == (1, 1, 0, 0, 0) and by_value["capability", "rec"] == (3, 1, 0, 2, 0)
    assert by_value["text in the picture", "is to be read"] == (1, 1, 0, 0, 0)


def test_which_questions_read_text(tmp_path: Path) -> None:
    def sorts(task: str, group: str = "", **details: Any) -> dict[str, list[str]]:
        return sorts_of(get_task(task), Sample("1", "?", (), "a", group, details), {})

    text = "text in the picture"
    assert sorts("textvqa")[text] == sorts("textvqa_no_ocr")[text] == ["is to be read"]
    assert sorts("ocrbench", "Text Recognition")[text] == sorts("chartqa", "human")[text] == ["is to be read"]
    assert sorts("refcoco_val", "small", box=(0.0, 0.0, 100.0, 50.0), width=500, height=400) == {
        "size of the object": ["medium (0.33 to 3 %)"],
        text: ["is not"],
    }, "2.5 %; and no type beside it"
    assert sorts("mme", "OCR")[text] == ["is to be read"] and sorts("mme", "count")[text] == ["is not"]
    assert sorts("crowded_dev", "text")[text] == ["is to be read"] and sorts("crowded_dev", "count")[text] == ["is not"]
    assert sorts("mmvet", capability=["rec", "ocr"]) == {"capability": ["rec", "ocr"], text: ["is to be read"]}
    assert sorts("gqa", structural="query", semantic="rel") == {
        "structural": ["query"],
        "semantic": ["rel"],
        text: ["is not"],
    }
    assert sorts("vqav2_val", "number") == {"type": ["number"]}, "its questions are not said to read text or not"


def test_sizes_of_popes_objects_are_cocos(tmp_path: Path) -> None:
    labels = [
        {"question_id": n, "image": "COCO_val2014_1.jpg", "text": f"Is there a{name} in the image?", "label": label}
        for n, (name, label) in enumerate(
            [(" dining table", "yes"), ("n apple", "yes"), (" cat", "no"), (" car", "yes")]
        )
    ]
    layout.write_pope(tmp_path, labels)
    file = tmp_path / "instances_val2014.json"
    content = {
        "images": [{"id": 7, "file_name": "COCO_val2014_1.jpg", "width": 100, "height": 50}],
        "categories": [{"id": 1, "name": "dining table"}, {"id": 2, "name": "apple"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "area": 500},
            {"image_id": 7, "category_id": 1, "area": 2500.0},
            {"image_id": 7, "category_id": 2, "area": 10},
        ],
    }
    layout.write_json(file, content)
    task = get_task("pope")
    samples = [sample for sample in task.load(tmp_path).samples if sample.group == "random"]
    shares = ObjectSizes(file).of(task, samples)
    assert shares == {"random/0": 0.5, "random/1": 0.002}, "not of what is absent, nor of what COCO does not outline"
    assert sorts_of(task, samples[1], shares)["size of the object"] == ["small (below 0.33 %)"]
    assert ObjectSizes().of(task, samples) == {}
    layout.write_json(file, {"images": []})
    with pytest.raises(ValueError, match=r"instances_val2014\.json is not COCO's instances_val2014\.json: KeyError"):
        ObjectSizes(file).of(task, samples)


def test_sizes_that_are_of_no_use_are_told(run: Path, data: Path, tmp_path: Path) -> None:
    layout.write_json(tmp_path / "i.json", {"images": [], "categories": [], "annotations": []})
    notes = examined(run, data, sizes=ObjectSizes(tmp_path / "i.json")).notes
    assert f"{tmp_path / 'i.json'} has no object of these questions: it is for POPE, on COCO's val2014" in notes
