"""The doctor on runs whose every answer is written by hand, so that each count is known beforehand."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava.eval.answers import AnswerFile
from llava.eval.answers_key import AnswersKey, compression_file_name, compression_name
from llava.eval.data_place import DataPlace
from llava.eval.doctor.command import main
from llava.eval.doctor.diagnosis import Case, Diagnosis, Slice
from llava.eval.doctor.down_sampling import down_sampling_budget, down_sampling_row
from llava.eval.doctor.examine import Wanted, examine
from llava.eval.doctor.pictures import choose_flips
from llava.eval.doctor.sizes import ObjectSizes
from llava.eval.doctor.slices import sorts_of
from llava.eval.doctor.words import findings
from llava.eval.report.command import main as report
from llava.eval.tasks import Sample, get_task
from llava.model.configuration import CompressionConfig
from tests.eval import layout

TINY_MODEL = Path(__file__).resolve().parents[2] / "playground" / "tiny" / "model"
Said = Mapping[str, Mapping[str, Mapping[str, str]]]  # by task and budget, the texts by sample id

# Of eight questions about four images: type, size of the object, truth, then what is said with all tokens, under
# visionzip:54+10, and by down-sampling.
VQA = (
    ("count", 0.001, "3", "3", "2", "2"),  # lost, and down-sampling gets it wrong
    ("count", 0.001, "4", "4", "4", "5"),  # down-sampling alone gets it wrong
    ("count", 0.02, "1", "1", "7", "1"),  # lost, and down-sampling gets it right
    ("colour", 0.02, "red", "blue", "red", "blue"),  # gained
    ("colour", 0.2, "red", "red", "red", "red"),  # the same
    ("colour", 0.2, "blue", "Blue", "blue", "blue"),  # other words
    ("where", 0.2, "left", "up", "down", "left"),  # other words, wrong both times
    ("where", 0.2, "left", "left", "left", "left"),  # the same
)
# Truth and the three answers, as above; questions 0..4 are one split, 5..9 another.
POPE = (
    ("yes", "yes", "yes", "yes"),
    ("yes", "yes", "no", "no"),
    ("yes", "no", "yes", "no"),
    ("no", "no", "yes", "yes"),
    ("no", "no", "no", "no"),
    ("yes", "yes", "no", "yes"),
    ("yes", "yes", "no", "no"),
    ("no", "yes", "no", "yes"),
    ("no", "no", "no", "no"),
    ("no", "no", "no", "no"),
)
BUDGETS = ("none", "visionzip:54+10", "downsample:64")


def write_data(root: Path, *, sizes: bool = True) -> Path:
    layout.write_json(
        root / "eval_vqa.json",
        [
            {"question_id": n, "image": f"{n // 2}.png", "text": f"Q{n} <b>?", "answer": truth, "kind": kind}
            | ({"object_share": share} if sizes else {})
            for n, (kind, share, truth, *_) in enumerate(VQA)
        ],
    )
    layout.write_json(
        root / "eval_pope.json",
        [
            {"question_id": n, "image": f"{n}.png", "text": f"Is {n}?", "answer": truth, "split": "ab"[n // 5]}
            for n, (truth, *_) in enumerate(POPE)
        ],
    )
    (root / "images").mkdir()
    for number in range(4):
        (root / "images" / f"{number}.png").write_bytes(layout.png())
    return root


def said_by_hand() -> Said:
    vqa = {budget: {str(n): row[3 + k] for n, row in enumerate(VQA)} for k, budget in enumerate(BUDGETS)}
    pope = {budget: {str(n): row[1 + k] for n, row in enumerate(POPE)} for k, budget in enumerate(BUDGETS)}
    return {"tiny_vqa": vqa, "tiny_pope": pope}


def write_run(folder: Path, data: Path, said: Said, **more: Any) -> Path:
    """An output folder as llava eval leaves it."""
    rows = []
    setting = {"prompts": "p", "conv_mode": "vicuna_v1", "dtype": "torch.float32", "generation": {}} | more
    for name, by_budget in said.items():
        task = get_task(name)
        samples = task.load(data).samples
        for budget, texts in by_budget.items():
            compression = CompressionConfig.parse(budget)
            made = compression.to_dict() if compression else None
            key = AnswersKey(task=name, model="fp", compression=made, **setting)
            path = folder / "answers" / name / f"{compression_file_name(compression)}.jsonl"
            with AnswerFile(path, key) as file:
                for sample_id, text in texts.items():
                    file.append(sample_id, text)
            row = {"task": name, "compression": compression_name(compression), "main_score": task.main_score}
            row |= {"tokens": compression.num_tokens if compression else 576, "n": len(samples)}
            rows.append(row | setting | {"task_facts": task.facts().to_json()} | task.score(samples, texts))
    layout.write_json(folder / "results.json", {"run": {"model": "fp"}, "rows": rows})
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Path:
    return write_run(tmp_path / "run", data, said_by_hand())


def examined(run: Path, data: Path, **more: Any) -> Diagnosis:
    return examine(Wanted(run, DataPlace(data), **{"resamples": 200} | more))


def case_of(diagnosis: Diagnosis, task: str) -> Case:
    return diagnosis.budgets[0].cases[task]


def counts(part: Slice) -> tuple[int, ...]:
    return part.n, part.lost, part.gained, part.reworded, part.same


def test_every_flip_is_counted_by_type_and_by_size_of_the_object(run: Path, data: Path) -> None:
    diagnosis = examined(run, data)
    assert [budget.compression for budget in diagnosis.budgets] == ["visionzip:54+10"], "down-sampling is the yardstick"
    case = case_of(diagnosis, "tiny_vqa")
    assert counts(case.whole) == (8, 2, 1, 2, 3)
    assert (case.before, case.after) == (6 / 8, 5 / 8) and case.retention.value == pytest.approx(5 / 6)
    assert (case.whole.before, case.whole.after, case.whole.change.value) == (0.75, 0.625, -0.125)
    by_value = {(part.sort, part.value): part for part in case.slices}
    assert {key: counts(part) for key, part in by_value.items()} == {
        ("type", "colour"): (3, 0, 1, 1, 1),
        ("type", "count"): (3, 2, 0, 0, 1),
        ("type", "where"): (2, 0, 0, 1, 1),
        ("size of the object", "small (below 0.33 %)"): (2, 1, 0, 0, 1),
        ("size of the object", "medium (0.33 to 3 %)"): (2, 1, 1, 0, 0),
        ("size of the object", "large (3 % and more)"): (4, 0, 0, 2, 2),
    }
    assert by_value["type", "count"].change.value == pytest.approx(-2 / 3)
    assert [(flip.kind, flip.sample.sample_id) for flip in case.flips if flip.kind != "reworded"] == [
        *(("lost", key) for key in ("0", "2")),
        ("gained", "3"),
    ]


def test_flips_are_those_of_the_report(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = run / "answers" / "tiny_vqa"
    files = [str(answers / "none.jsonl"), str(answers / "visionzip_54+10.jsonl")]
    assert report(["--diff", *files, "--data-root", str(data)]) == 0
    assert "2 better in A\n1 better in B\n2 the same score, other words\n3 the same words" in capsys.readouterr().out


def test_what_down_sampling_gets_wrong_stands_apart(run: Path, data: Path) -> None:
    down = case_of(examined(run, data), "tiny_vqa").down_sampling
    assert down is not None and down.compression == "downsample:64" and down.tokens == 64
    # All tokens are right on 0, 1, 2, 4, 5 and 7, and down-sampling on the last four of these.
    assert (down.hard.n, down.hard.right) == (2, 1) and (down.easy.n, down.easy.right) == (4, 3)
    assert down.hard.share is not None and down.hard.share.value == 0.5
    without = write_run(run.parent / "without", data, {t: dict(list(b.items())[:2]) for t, b in said_by_hand().items()})
    diagnosis = examined(without, data)
    assert case_of(diagnosis, "tiny_vqa").down_sampling is None
    wanted = f"--tasks tiny_pope,tiny_vqa --compression downsample:64 --output-dir {without}"
    assert diagnosis.advice == [f"llava eval --model-path MODEL {wanted}"]


def test_the_nearest_number_that_makes_a_grid_is_named() -> None:
    assert down_sampling_budget("visionzip:83+15") == "downsample:98"  # 7 x 14
    assert down_sampling_budget("random:23") == "downsample:20"  # 23, 22 and 21 make no grid within 2:1
    assert down_sampling_budget("random:3") is None  # 1 x 3 is longer than 2:1, and 2 are a third fewer
    assert down_sampling_budget("fastv:64") is None, "of a whole image, however many tiles it has"
    row = {"task": "gqa", "compression": "fastv:64", "tokens": 576, "n": 9}
    rows = [row | {"compression": f"downsample:{tokens}", "tokens": tokens} for tokens in (49, 60, 64, 72)]
    found = down_sampling_row(rows, row)
    assert found is not None and found["tokens"] == 64
    found = down_sampling_row(rows, row | {"compression": "random:70", "tokens": 70})
    assert found is not None and found["tokens"] == 64, "the most tokens that are not more"
    assert down_sampling_row(rows, row | {"compression": "random:70", "tokens": 70, "n": 8}) is None, "other questions"
    assert down_sampling_row(rows, row | {"compression": "random:100", "tokens": 100}) is None


def test_precision_and_recall_are_apart(run: Path, data: Path) -> None:
    shifts = {shift.name: shift for shift in case_of(examined(run, data), "tiny_pope").shifts}
    # Split a: all tokens say yes to 0 and 1, of three that are; the budget to 0, 2 and 3. Split b: all tokens to 5, 6
    # and 7, of two that are; the budget to none.
    assert (shifts["precision"].before, shifts["precision"].after) == pytest.approx(((1 + 2 / 3) / 2, (2 / 3 + 0) / 2))
    assert (shifts["recall"].before, shifts["recall"].after) == pytest.approx(((2 / 3 + 1) / 2, (2 / 3 + 0) / 2))
    assert (shifts["yes said"].before, shifts["yes said"].after) == pytest.approx((0.5, 0.3))
    assert shifts["recall"].change.value == pytest.approx(1 / 3 - 5 / 6)
    assert case_of(examined(run, data), "tiny_vqa").shifts == [], "not a task of yes and no"


def test_popes_own_scores_are_met(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    labels = [
        {
            "question_id": n,
            "image": f"{n % 9}.jpg",
            "text": "Is there a cat in the image?",
            "label": ["yes", "no"][n % 2],
        }
        for n in range(60)
    ]
    layout.write_pope(tmp_path, labels)
    samples = get_task("pope").load(tmp_path).samples
    said = {
        budget: {s.sample_id: s.answer if rng.random() < skill else "No, it is not." for s in samples}
        for budget, skill in (("none", 0.9), ("visionzip:54+10", 0.6))
    }
    run = write_run(tmp_path / "run", tmp_path, {"pope": said})
    rows = json.loads((run / "results.json").read_text())["rows"]
    for shift in case_of(examined(run, tmp_path), "pope").shifts:
        name = "yes_ratio" if shift.name == "yes said" else shift.name
        assert (shift.before, shift.after) == pytest.approx((rows[0][name], rows[1][name])), name


def test_intervals_are_as_wide_as_theory_has_them(tmp_path: Path) -> None:
    rng, count = np.random.default_rng(2), 1200
    rows = [
        {"question_id": n, "image": f"{n}.png", "text": "?", "answer": ("yes", "no")[n % 2], "split": "one"}
        for n in range(count)
    ]
    layout.write_json(tmp_path / "eval_pope.json", rows)
    other = {"yes": "no", "no": "yes"}
    said = {
        budget: {str(n): r["answer"] if rng.random() < skill else other[r["answer"]] for n, r in enumerate(rows)}
        for budget, skill in zip(BUDGETS, (0.95, 0.85, 0.6), strict=True)
    }
    case = case_of(
        examined(write_run(tmp_path / "run", tmp_path, {"tiny_pope": said}), tmp_path, resamples=2000), "tiny_pope"
    )
    right = np.array([[said[budget][str(n)] == r["answer"] for n, r in enumerate(rows)] for budget in BUDGETS], float)
    half = 1.96 * (right[1] - right[0]).std(ddof=1) / math.sqrt(count)
    change = case.whole.change
    assert change.low == pytest.approx(change.value - half, abs=0.003)
    assert change.high == pytest.approx(change.value + half, abs=0.003)
    # Of a ratio of means, by the delta method.
    ratio = right[1].mean() / right[0].mean()
    half = 1.96 * (right[1] - ratio * right[0]).std(ddof=1) / math.sqrt(count) / right[0].mean()
    assert case.retention.value == pytest.approx(ratio)
    assert case.retention.low == pytest.approx(ratio - half, abs=0.003)
    down = case.down_sampling
    assert down is not None and down.hard.share is not None and down.hard.n == ((right[0] > 0) & (right[2] == 0)).sum()
    share = down.hard.share
    assert share.low == pytest.approx(
        share.value - 1.96 * math.sqrt(share.value * (1 - share.value) / down.hard.n), abs=0.01
    )
    # Recall of yes, of both sides over the same 600 questions.
    asked = right[:, ::2]
    half = 1.96 * (asked[1] - asked[0]).std(ddof=1) / math.sqrt(asked.shape[1])
    recall = next(shift for shift in case.shifts if shift.name == "recall")
    assert recall.change.value == pytest.approx((asked[1] - asked[0]).mean())
    assert recall.change.low == pytest.approx(recall.change.value - half, abs=0.006)
    assert any("recall of yes" in line for line in findings(examined(tmp_path / "run", tmp_path).budgets[0]))


def test_findings_name_what_fell_and_nothing_that_chance_explains(run: Path, data: Path, tmp_path: Path) -> None:
    assert not any("type" in line for line in findings(examined(run, data).budgets[0])), "of fewer than 20 questions"
    rows = [
        {"question_id": n, "image": f"{n}.png", "text": "?", "answer": "1", "kind": ("count", "colour")[n % 2]}
        for n in range(100)
    ]
    layout.write_json(tmp_path / "eval_vqa.json", rows)
    said = {"none": dict.fromkeys(map(str, range(100)), "1")}
    said["random:64"] = {str(n): "2" if n % 2 == 0 and n < 30 else "1" for n in range(100)}
    budget = examined(write_run(tmp_path / "own", tmp_path, {"tiny_vqa": said}), tmp_path).budgets[0]
    assert len(findings(budget)) == 1
    assert re.fullmatch(
        r"tiny_vqa, type 'count': 100\.0 % -> 70\.0 % \(-30\.0 \[-\d+\.\d, -\d+\.\d\]\); 15 lost, 0 gained of 50",
        findings(budget)[0],
    )


def test_a_whole_task_is_named_where_its_types_are_small(tmp_path: Path) -> None:
    rows = [
        {"question_id": n, "image": f"{n}.png", "text": "?", "answer": "1", "kind": f"type {n % 5}"} for n in range(40)
    ]
    layout.write_json(tmp_path / "eval_vqa.json", rows)
    said = {"none": dict.fromkeys(map(str, range(40)), "1")}
    said["random:64"] = {str(n): "12"[n < 10] for n in range(40)}
    budget = examined(write_run(tmp_path / "run", tmp_path, {"tiny_vqa": said}), tmp_path).budgets[0]
    assert len(findings(budget)) == 1
    assert findings(budget)[0].startswith("tiny_vqa: 100.0 % -> 75.0 % (-25.0 [")


def test_of_one_picture_nothing_is_known_for_sure(tmp_path: Path) -> None:
    rows = [
        {"question_id": n, "image": "0.png", "text": "?", "answer": ("yes", "no")[n % 2], "split": "a"}
        for n in range(40)
    ]
    layout.write_json(tmp_path / "eval_pope.json", rows)
    said = {"none": {str(n): row["answer"] for n, row in enumerate(rows)}}
    said["random:64"] = dict.fromkeys(said["none"], "no")
    case = case_of(examined(write_run(tmp_path / "run", tmp_path, {"tiny_pope": said}), tmp_path), "tiny_pope")
    assert case.whole.change.value == -0.5 and case.whole.change.low is None
    assert case.shifts and all(shift.change.low is None for shift in case.shifts)


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


def doctor(run: Path, data: Path, *words: str) -> int:
    return main([str(run), "--data-root", str(data), "--resamples", "100", *words])


def test_sizes_that_are_of_no_use_are_told(run: Path, data: Path, tmp_path: Path) -> None:
    layout.write_json(tmp_path / "i.json", {"images": [], "categories": [], "annotations": []})
    notes = examined(run, data, sizes=ObjectSizes(tmp_path / "i.json")).notes
    assert f"{tmp_path / 'i.json'} has no object of these questions: it is for POPE, on COCO's val2014" in notes


def test_the_gate_says_what_fell(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(run, data, "--fail-under", "0.5") == 0
    assert capsys.readouterr().err.count("FELL") == 0
    assert json.loads((run / "doctor.json").read_text())["failed"] == []
    assert doctor(run, data, "--fail-under", "0.8") == 1, "POPE keeps 6 of 8"
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("FELL")]
    assert len(lines) == 1
    assert re.fullmatch(
        r"FELL: tiny_pope under visionzip:54\+10 keeps 75\.0 % \[.*\] of all tokens, below 80\.0 %", lines[0]
    )
    assert json.loads((run / "doctor.json").read_text())["failed"] == [lines[0].removeprefix("FELL: ")]
    assert doctor(run, data, "--fail-under", "0.8", "--tasks", "tiny_vqa") == 0
    assert doctor(run, data, "--fail-under", "0.8", "--tasks", "tiny_vqa", "--fail-lower-bound") == 1
    assert "the lower end is below 80.0 %" in capsys.readouterr().err
    assert doctor(run, data, "--fail-under", "0.5", "--tasks", "tiny_vqa", "--fail-lower-bound") == 1
    assert "on 4 pictures; 6 are needed to tell 50.0 %" in capsys.readouterr().err, "by the rule of three"
    assert doctor(run, data, "--fail-under", "0.25", "--tasks", "tiny_vqa", "--fail-lower-bound") == 0
    assert doctor(run, data, "--fail-under", "0.79", "--fail-on", "mean") == 0, "the mean of 75 and 83.3"
    assert doctor(run, data, "--fail-under", "0.8", "--fail-on", "mean") == 1
    assert "the mean over tasks under visionzip:54+10 keeps 79.2 %" in capsys.readouterr().err


def test_what_is_not_known_has_not_passed(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "answers" / "tiny_pope" / "visionzip_54+10.jsonl").unlink()
    assert doctor(run, data, "--fail-under", "0.5") == 1
    assert "FELL: tiny_pope under visionzip:54+10 is not known: its answers are not in" in capsys.readouterr().err
    content = json.loads((run / "results.json").read_text())
    for row in content["rows"]:
        if row["compression"] == "visionzip:54+10" and row["task"] == "tiny_pope":
            row["dtype"] = "torch.float16"
    layout.write_json(run / "results.json", content)
    assert doctor(run, data, "--fail-under", "0.5") == 1
    said = capsys.readouterr()
    assert "tiny_pope under visionzip:54+10 is not known: its row cannot be compared" in said.err
    assert "note: visionzip:54+10, tiny_pope: no retention, vanilla differs in dtype" in said.out


def test_answers_that_changed_since_they_were_scored_are_not_examined(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A killed run leaves half of them; another file of questions gives them another score."""
    path = run / "answers" / "tiny_pope" / "visionzip_54+10.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:6]))
    assert doctor(run, data, "--fail-under", "0.5") == 1
    said = capsys.readouterr()
    assert "tiny_pope under visionzip:54+10 is not known: " in said.err
    assert "visionzip_54+10.jsonl scores 30.0 % and results.json says 60.0 %" in said.err
    questions = json.loads((data / "eval_vqa.json").read_text())
    layout.write_json(data / "eval_vqa.json", [question | {"answer": "green"} for question in questions])
    with pytest.raises(
        SystemExit, match=r"none\.jsonl scores 0\.0 % and results\.json says 75\.0 %.*have changed since"
    ):
        doctor(run, data)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fail-under", "97"], "97 is not above 0 and at most 1; 97 % is 0.97"),
        (["--fail-under", "much"], "'much' is no number"),
        (["--fail-lower-bound"], "--fail-lower-bound goes with --fail-under"),
        (["--fail-on", "mean"], "--fail-on goes with --fail-under"),
        (["--fail-under", "0.9", "--fail-lower-bound", "--resamples", "0"], "leave out --resamples 0"),
        (["--pictures", "21"], "at most 20, got 21"),
    ],
)
def test_wrong_flags_are_named(
    run: Path, data: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        doctor(run, data, *words)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_a_run_that_lacks_something_is_answered_in_a_line(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no results of fastv:64; it has visionzip:54\+10, downsample:64"):
        doctor(run, data, "--compression", "fastv:64")
    with pytest.raises(SystemExit, match="--compression none: all tokens are what each budget is compared with"):
        doctor(run, data, "--compression", "none")
    with pytest.raises(SystemExit, match=r"--coco-instances .*nowhere\.json: no such file"):
        doctor(run, data, "--coco-instances", str(tmp_path / "nowhere.json"))
    with pytest.raises(SystemExit, match="has no scores of all tokens for gqa; it has tiny_pope, tiny_vqa"):
        doctor(run, data, "--tasks", "gqa")
    with pytest.raises(SystemExit, match=r"nothing can be examined: .*eval_pope\.json does not exist"):
        doctor(run, tmp_path)
    with pytest.raises(SystemExit, match=r"results\.json does not exist or has no rows"):
        doctor(tmp_path / "nowhere", data)
    alone = write_run(tmp_path / "alone", data, {"tiny_vqa": {"none": said_by_hand()["tiny_vqa"]["none"]}})
    with pytest.raises(SystemExit, match="has results of all tokens only; add a budget with `llava eval"):
        doctor(alone, data)
    other = write_run(tmp_path / "other", data, {"tiny_vqa": {"random:64": said_by_hand()["tiny_vqa"]["none"]}})
    with pytest.raises(SystemExit, match="no results without compression; add --compression none"):
        doctor(other, data)


def test_down_sampling_is_examined_where_it_is_asked_for(run: Path, data: Path) -> None:
    diagnosis = examined(run, data, budgets=["downsample:64"])
    assert [budget.compression for budget in diagnosis.budgets] == ["downsample:64"]
    assert case_of(diagnosis, "tiny_vqa").down_sampling is None and diagnosis.advice == []


def test_the_page_needs_no_other_file(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(run, data, "--fail-under", "0.99", "--pictures", "3") == 1
    page = (run / "doctor.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href|action)\s*=\s*[\"'](?!data:|#)|url\(|@import|<script|<link", page)
    assert "<b>?" not in page and "Q0 &lt;b&gt;?" in page, "questions are text"
    assert page.count("<article>") == 3 and page.count("data:image/jpeg;base64,") >= 1
    assert 'name="viewport"' in page and "What plain down-sampling gets wrong" in page and "Fell." in page
    content = json.loads((run / "doctor.json").read_text())
    vqa = next(case for case in content["budgets"][0]["tasks"] if case["task"] == "tiny_vqa")
    assert vqa["questions"] | {"change": None} == {
        "n": 8,
        "pictures": 4,
        "lost": 2,
        "gained": 1,
        "reworded": 2,
        "same": 3,
        "before": 0.75,
        "after": 0.625,
        "change": None,
    }
    assert vqa["flips"] == {"lost": ["0", "2"], "gained": ["3"]}
    assert vqa["down_sampling"]["wrong"]["n"] == 2 and content["tokens"] == 576


def test_shown_flips_take_turns(run: Path, data: Path) -> None:
    chosen = [(case.task, flip.sample.sample_id) for _, case, flip in choose_flips(examined(run, data), 20)]
    assert chosen[:4] == [("tiny_pope", "1"), ("tiny_vqa", "0"), ("tiny_pope", "5"), ("tiny_vqa", "2")]
    assert len(chosen) == 6 + 3 and ("tiny_vqa", "5") not in chosen, "other words are no flip"


def test_the_patches_that_were_kept_stand_beside_the_picture(run: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ["--tasks", "tiny_vqa", "--pictures", "2", "--model-path", str(TINY_MODEL), "--device", "cpu"]
    assert doctor(run, data, *words) == 0
    page = (run / "doctor.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2
    assert page.count("64 tokens: CLS + 53 patches + 10 merged") == 2
    assert "the answers are from a model with fingerprint fp" in " ".join(page.split())
    assert not (run / "model_hashes.json").exists()
