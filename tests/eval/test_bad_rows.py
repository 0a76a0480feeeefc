"""Files in which a value is missing or of another type: the row is named, and nothing fails when the task is scored."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llava.eval.tasks import JudgedTask, TaskDataError, get_task
from tests.eval import layout
from tests.eval.hub_tables import BUILDERS

WRONG: tuple[Any, ...] = (None, 5, ["a"])
JSON_TASKS = sorted(
    set(BUILDERS) - {"mmbench", "mmbench_cn", "mmbench_lmms", "mme", "mmmu_val", "mmmu_val_official", "mmstar"}
)


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a JSON value can go wrong: every field, and the first item of every list."""
    yield above
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, below in items:
        yield from places(below, (*above, key))


def put(content: Any, place: tuple[Any, ...], wrong: Any) -> Any:
    if not place:
        return wrong
    changed = copy.deepcopy(content)
    parent = changed
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = wrong
    return changed


def use(name: str, root: Path) -> None:
    """Everything that a run does with a task, but for asking."""
    task = get_task(name)
    samples = task.load(root).samples
    for sample in samples:
        assert all(isinstance(part, str) for part in (sample.sample_id, sample.prompt, sample.answer))
        task.is_correct(sample, "A")
        if isinstance(task, JudgedTask):
            task.grading_prompt(sample, "A")
            task.score_grades(samples, {sample.sample_id: [task.read_grade("1.0" if name == "mmvet" else "5 5")]})
    texts = {sample.sample_id: "A" for sample in samples}
    task.score(samples, texts)
    task.write_submission(samples, texts, root)


@pytest.mark.parametrize("name", JSON_TASKS)
def test_no_wrong_value_is_found_out_after_the_asking(name: str, tmp_path: Path) -> None:
    BUILDERS[name](tmp_path / "hub", tmp_path / "local")
    root = tmp_path / "local"
    use(name, root)
    refused = 0
    for file in sorted(path for path in root.rglob("*") if path.suffix in (".json", ".jsonl")):
        text = file.read_text()
        is_lines = file.suffix == ".jsonl" or "coco_pope" in file.name
        content = [json.loads(line) for line in text.splitlines()] if is_lines else json.loads(text)
        for place in places(content):
            for wrong in WRONG:
                changed = put(content, place, wrong)
                if is_lines and not isinstance(changed, list):
                    continue
                file.write_text("\n".join(map(json.dumps, changed)) if is_lines else json.dumps(changed))
                try:
                    use(name, root)
                except TaskDataError as error:
                    refused += 1
                    assert str(root) in str(error)
        file.write_text(text)
    assert refused


def test_a_wrong_row_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    BUILDERS["seed_image"](tmp_path / "hub", tmp_path / "local")
    path = tmp_path / "local" / "seed_bench" / "SEED-Bench.json"
    content = json.loads(path.read_text())
    good = next(row for row in content["questions"] if row["data_type"] == "image")
    video = next(row for row in content["questions"] if row["data_type"] == "video")
    layout.write_json(path, content | {"questions": [video, None, good, good | {"question_id": "9", "answer": None}]})
    loaded = get_task("seed_image").load(tmp_path / "local")
    assert [sample.sample_id for sample in loaded.samples] == [str(good["question_id"])]
    first, second = loaded.bad_rows
    assert first.startswith(f"{path} row 1: ")
    assert second == f"{path} row 3: answer None is none of A, B, C, D"


def test_a_third_question_about_an_image_of_mme_is_left_out(tmp_path: Path) -> None:
    layout.write_mme(tmp_path, {"count/1": ["A?\tYes", "B?\tNo", "C?\tNo"]})
    task = get_task("mme")
    loaded = task.load(tmp_path)
    assert len(loaded.samples) == 2 and "one too many" in loaded.bad_rows[0]
    assert task.score(loaded.samples, {sample.sample_id: sample.answer for sample in loaded.samples})["total"] == 200


def test_silence_is_right_nowhere(tmp_path: Path) -> None:
    """Neither where the answer lacks, nor where it counts from the end."""
    layout.write_mmbench(tmp_path, [{"index": 1, "question": "Q?", "answer": "", "A": "x", "B": "y"}])
    task = get_task("mmbench")
    samples = task.load(tmp_path).samples
    assert task.is_correct(samples[0], "") == 0 and task.score(samples, {})["circular_accuracy"] == 0
    BUILDERS["sqa_img"](tmp_path / "hub", tmp_path / "local")
    path = tmp_path / "local" / "scienceqa" / "problems.json"
    problems = json.loads(path.read_text())
    name = next(key for key, row in problems.items() if row["image"])
    layout.write_json(path, problems | {name: problems[name] | {"answer": -1}})
    loaded = get_task("sqa_img").load(tmp_path / "local")
    assert "answer -1 is not the place of one of" in loaded.bad_rows[0]
    assert name not in {sample.sample_id for sample in loaded.samples}
