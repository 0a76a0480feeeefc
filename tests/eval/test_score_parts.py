"""Scores taken apart for the bootstrap are the scores of the tasks themselves."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava.eval.tasks import JudgedTask, get_task
from llava.results.bootstrap import bootstrap_interval, paired_bootstrap
from tests.eval import layout


def write_all(root: Path) -> dict[str, tuple[str, ...]]:
    """Small benchmarks, and what a model may say to each."""
    rng = random.Random(5)
    images = [f"{n}.jpg" for n in range(6)]
    types = {"structural": "query", "semantic": "obj"}
    layout.write_gqa(
        root,
        [{"question": "Q?", "answer": rng.choice("ab"), "imageId": f"i{n % 6}", "types": types} for n in range(40)],
    )
    layout.write_pope(
        root,
        [
            {"question_id": n, "image": images[n % 6], "text": "T?", "label": rng.choice(["yes", "no"])}
            for n in range(30)
        ],
    )
    layout.write_mme(
        root, {f"{c}/{n}": ["A?\tYes", "B?\tNo"] for c in ("count", "color", "code_reasoning") for n in range(5)}
    )
    rows: list[dict[str, Any]] = []
    for index in range(8):
        for turn in range(3):
            options = dict(zip("ABC", ["x", "y", "z"][turn:] + ["x", "y", "z"][:turn], strict=True))
            answer = next(letter for letter, text in options.items() if text == "xyz"[index % 3])
            rows.append({"index": index + turn * 1_000_000, "question": "Q?", "answer": answer} | options)
    layout.write_mmbench(root, [*rows, {"index": 5_000_099, "question": "Q?", "answer": "A", "A": "x", "B": "y"}])
    vqa = [{"question_id": n, "image_id": n % 5, "question": "Q?"} for n in range(20)]
    layout.write_vqav2(root, vqa, [["two"] * k + ["three"] * (10 - k) for k in (rng.randrange(1, 10) for _ in vqa)])
    row = {"imagename": "v.png", "question": "Q?", "answer": "a", "capability": ["rec"]}
    layout.write_mmvet(root, [row | {"imagename": f"{n}.png"} for n in range(9)])
    questions = [
        {"question_id": n, "image": f"{n}.jpg", "category": ("conv", "detail", "complex")[n % 3], "text": "Q?"}
        for n in range(9)
    ]
    layout.write_llava_bench(root, questions)
    return {
        "gqa": ("a", "b", "B.", ""),
        "pope": ("Yes.", "No, it is not.", "maybe"),
        "mme": ("Yes", "No", "perhaps"),
        "mmbench": ("A", "B", "C", "x", "?"),
        "vqav2_val": ("2", "three", "four"),
        "mmvet": ("",),
        "llava_bench": ("",),
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_the_parts_add_up_to_the_tasks_own_score(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for name, words in write_all(tmp_path).items():
        task = get_task(name)
        samples = task.load(tmp_path).samples
        texts = {s.sample_id: rng.choice(words) for s in samples if rng.random() < 0.95}  # some have no answer
        if isinstance(task, JudgedTask):

            def grade(kind: str = name) -> Any:
                drawn = rng.random()
                return None if drawn < 0.1 else drawn if kind == "mmvet" else [rng.randint(5, 9), rng.randint(1, 9)]

            grades = {s.sample_id: [grade(), grade()] for s in samples}
            parts, expected = task.parts(samples, texts, grades), task.score_grades(samples, grades)["score"]
            assert parts.total == pytest.approx(expected, abs=0.07)  # LLaVA-Bench's summary is rounded
        else:
            parts, expected = task.parts(samples, texts), task.score(samples, texts)[task.main_score]
            assert parts.total == pytest.approx(expected), name
        assert len(parts.values) == len(parts.groups) == len(set(parts.groups)) < len(samples) + 1


def test_groups_are_images_and_rotations(tmp_path: Path) -> None:
    write_all(tmp_path)
    sizes = {}
    for name in ("gqa", "pope", "mme", "mmbench"):
        task = get_task(name)
        sizes[name] = len(task.parts(task.load(tmp_path).samples, {}).groups)
    # Of MMBench's 25 rows eight are questions, 16 rotations of them, and one belongs to no question.
    assert sizes == {"gqa": 6, "pope": 6, "mme": 15, "mmbench": 8}


def test_no_questions_and_no_grades_are_errors(tmp_path: Path) -> None:
    write_all(tmp_path)
    mmvet, gqa = get_task("mmvet"), get_task("gqa")
    with pytest.raises(ValueError, match="there are no grades"):
        mmvet.parts(mmvet.load(tmp_path).samples, {})
    with pytest.raises(ValueError, match="there is no question"):
        gqa.parts([], {})


def test_interval_of_a_mean_is_that_of_the_paired_bootstrap() -> None:
    generator = np.random.default_rng(8)
    a = {f"{i:03}": float(generator.random() < 0.8) for i in range(300)}
    b = {key: float(generator.random() < 0.7) for key in a}
    expected = paired_bootstrap(a, b)
    parts = np.array([[a[key], b[key], 1.0] for key in sorted(a)])
    low, high = bootstrap_interval(parts, lambda sums: (sums[:, 0] - sums[:, 1]) / sums[:, 2])
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.005)


def test_draws_without_a_value_are_left_out() -> None:
    low, high = bootstrap_interval(np.array([[1.0, 0.0], [1.0, 2.0]]), lambda sums: sums[:, 0] / sums[:, 1])
    assert 0.5 <= low <= high <= 1.0
    assert np.isnan(bootstrap_interval(np.array([[1.0, 0.0]]), lambda sums: sums[:, 0] / sums[:, 1])).all()
