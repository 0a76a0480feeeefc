"""The prompts of the benchmarks against those that LLaVA's own code builds, for six templates.

`tests/fixtures/prompts/llava.json` holds annotation rows and the whole prompts that haotian-liu/LLaVA's `model_vqa*`
modules made of the questions that its own question files ask about them. `lmms_eval.json` holds what lmms-eval asks;
LLaVA-OneVision's published figures were made with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llava.conversation import conv_templates
from llava.eval.tasks import Sample, get_task
from llava.prompts.around import place_images
from tests.eval import layout

FIXTURE = Path(__file__).parents[1] / "fixtures" / "prompts" / "llava.json"
LMMS_EVAL = json.loads(FIXTURE.with_name("lmms_eval.json").read_text(encoding="utf-8"))["rows"]
# max_new_tokens of the LLaVA module that asks each: model_vqa_loader has 128, the others 1024.
LIMITS = {
    **dict.fromkeys(("gqa", "pope", "mme", "textvqa", "vizwiz", "vqav2_val", "seed"), 128),
    **dict.fromkeys(("sqa_full", "mmbench", "mmbench_cn", "mmvet", "llava_bench"), 1024),
}


def rows_by_task() -> dict[str, list[Any]]:
    tasks: dict[str, list[Any]] = {}
    for row in json.loads(FIXTURE.read_text(encoding="utf-8"))["rows"]:
        tasks.setdefault(row["task"], []).append(row)
    return tasks


def write(root: Path, task: str, rows: list[Any]) -> None:
    if task == "mme":
        names = ["code_reasoning/0020", "celebrity/tt0096320_shot_0085_img_0"]
        layout.write_mme(root, {name: [line] for name, line in zip(names, rows, strict=True)})
    elif task.startswith("mmbench"):
        layout.write_mmbench(root, rows, task.removesuffix("_lmms"))
    else:
        module = {"sqa_full": "scienceqa", "vqav2_val": "vqav2", "textvqa_no_ocr": "textvqa"}.get(task, task)
        getattr(layout, f"write_{module.removesuffix('_lmms')}")(root, rows)


def whole_prompt(sample: Sample, template: str) -> str:
    conversation = conv_templates[template].copy()
    text = place_images(sample.prompt, len(sample.images), SimpleNamespace(mm_use_im_start_end=False))
    conversation.append_message(conversation.roles[0], text)
    conversation.append_message(conversation.roles[1], None)
    return conversation.get_prompt()


def test_every_task_with_a_llava_module_is_here() -> None:
    assert set(rows_by_task()) == set(LIMITS)


@pytest.mark.parametrize("task", sorted(LIMITS))
def test_prompts_are_those_that_llava_builds(task: str, tmp_path: Path) -> None:
    rows = rows_by_task()[task]
    write(tmp_path, task, [row["input"] for row in rows])
    loaded = get_task(task).load(tmp_path)
    assert not loaded.bad_rows
    samples = {sample.prompt: sample for sample in loaded.samples}.values()  # POPE's three splits ask the same here
    built = sorted(json.dumps({name: whole_prompt(s, name) for name in rows[0]["prompts"]}) for s in samples)
    assert built == sorted(json.dumps(row["prompts"]) for row in rows)
    assert get_task(task).max_new_tokens == LIMITS[task]


@pytest.mark.parametrize("task", sorted({row["task"] for row in LMMS_EVAL}))
def test_prompts_are_those_that_lmms_eval_builds(task: str, tmp_path: Path) -> None:
    rows = [row for row in LMMS_EVAL if row["task"] == task]
    write(tmp_path, task, [row["input"] for row in rows])
    loaded = get_task(task).load(tmp_path)
    assert not loaded.bad_rows
    assert sorted({sample.prompt for sample in loaded.samples}) == sorted(row["prompt"] for row in rows)


def test_a_judge_of_mmvet_is_shown_the_question_alone(tmp_path: Path) -> None:
    """As lmms-eval and MM-Vet do, whatever the model was asked."""
    layout.write_mmvet(tmp_path, [row["input"] for row in LMMS_EVAL if row["task"] == "mmvet_lmms"])
    usual, reasoned = get_task("mmvet"), get_task("mmvet_lmms")
    shown = [task.grading_prompt(task.load(tmp_path).samples[0], "x = 5") for task in (usual, reasoned)]
    assert shown[0] == shown[1] and "step by step" not in shown[1]


def test_textvqa_without_ocr_asks_the_question_alone(tmp_path: Path) -> None:
    layout.write_textvqa(tmp_path, [row["input"] for row in rows_by_task()["textvqa"]])
    first = get_task("textvqa_no_ocr").load(tmp_path).samples[0]
    assert first.prompt == "What is the brand of this camera?\nAnswer the question using a single word or phrase."


def test_mmmu_prompts(tmp_path: Path) -> None:
    """lmms-eval's `construct_prompt`, and the example formats of MMMU's `configs/llava1.5.yaml`."""
    image = {"bytes": layout.png(), "path": "1.png"}
    choice = {
        "id": "validation_Art_Theory_1",
        "question": "What is in <image 1>?",
        "options": "['a cat', '<image 2>']",
        "answer": "A",
        "question_type": "multiple-choice",
        "image_1": image,
        "image_2": {"bytes": layout.png("blue"), "path": "2.png"},
    }
    opened = {
        "id": "validation_Math_15",
        "question": "Solve <image 1>.",
        "options": "[]",
        "answer": "['24/7', '3.429']",
        "question_type": "open",
        "image_1": image,
        "image_2": None,
    }
    layout.write_mmmu(tmp_path, [choice, opened])
    first, second = get_task("mmmu_val").load(tmp_path).samples
    assert first.prompt == (
        "<image> <image>\nWhat is in <image 1>?\nA. a cat\nB. <image 2>\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert [image.name for image in first.images] == [
        "validation_Art_Theory_1/image_1",
        "validation_Art_Theory_1/image_2",
    ]
    assert first.images[1] == layout.png("blue")
    assert second.prompt == "Solve <image 1>.\n\nAnswer the question using a single word or phrase."
    assert (second.details["answers"], second.group, len(second.images)) == (["24/7", "3.429"], "Math", 1)
    first, _ = get_task("mmmu_val_official").load(tmp_path).samples
    assert first.prompt == (
        "What is in <image 1>?\n\n(A) a cat\n(B) <image 2>\n\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert len(first.images) == 1
