"""Comparisons of methods: values by hand, intervals, names of tuned models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from llava.eval.compare.files import to_csv, to_markdown
from llava.eval.compare.grid import Grid
from llava.eval.compare.intervals import add_intervals
from llava.eval.compare.latex import to_latex
from llava.eval.compare.picture import to_svg
from llava.eval.compare.table import build_comparison
from llava.eval.data_place import DataPlace
from llava.eval.model_origin import origin_of
from llava.model.configuration import CompressionConfig
from tests.eval import layout
from tests.eval.compare.conftest import (
    GRID,
    TINY,
    compared,
    entries,
    gqa_rows,
    write_run,
)

# ----- Values by hand ----------------------------------------------------------


def test_retention_and_differences_are_those_worked_out_by_hand(folder: Path, data: Path) -> None:
    found = entries(compared(folder, data=data))
    assert list(found) == ["all tokens", "visionzip:54+10", "random:64", "uniform:64"]
    gqa = {label: entry.line.cells["gqa"].retention for label, entry in found.items()}
    assert gqa == pytest.approx({"all tokens": 100, "visionzip:54+10": 75, "random:64": 50, "uniform:64": 25})
    # F1 of yes: all tokens 1; VisionZip 2 of 3 are right and both are found, 4/5; random 1 of 1, one of two found, 2/3;
    # uniform 1 of 2, one of two found, 1/2. All splits alike.
    pope = {label: entry.line.cells["pope"].retention for label, entry in found.items()}
    f1 = {"all tokens": 100, "visionzip:54+10": 80, "random:64": 200 / 3, "uniform:64": 50}
    assert pope == pytest.approx(f1)
    assert found["visionzip:54+10"].mean.value == pytest.approx((75 + 80) / 2)
    assert found["visionzip:54+10"].against == {} and found["all tokens"].against == {}
    against = {task: figure.value for task, figure in found["random:64"].against.items()}
    assert against == pytest.approx({"gqa": -25, "pope": 200 / 3 - 80})
    assert found["uniform:64"].mean_against.value == pytest.approx((25 + 50 - 75 - 80) / 2)


def test_precision_and_recall_stand_apart(folder: Path, data: Path) -> None:
    found = entries(compared(folder, data=data))
    assert found["visionzip:54+10"].yes == {"pope": pytest.approx((100 * 2 / 3, 100))}
    assert found["random:64"].yes == {"pope": pytest.approx((100, 50))}
    assert found["uniform:64"].yes == {"pope": pytest.approx((50, 50))}


def test_costs_are_the_mean_over_seeds_and_old_rows_have_none(folder: Path, data: Path, tmp_path: Path) -> None:
    found = entries(compared(folder, data=data))
    random = found["random:64"].costs
    assert (random.vision_ms, random.prefill_ms, random.selector_ms) == (41.0, 21.0, 1.5)
    assert random.first_token_ms == 62.0 and found["all tokens"].costs.selector_ms is None
    content = json.loads((folder / "results.json").read_text())
    for row in content["rows"]:
        for name in ("selector_ms", "kv_bytes", "rows_read", "timing", "tuned_for"):
            del row[name]
    old = write_run(tmp_path / "old", data)
    layout.write_json(old / "results.json", content)
    comparison = compared(old, data=data)
    assert comparison.timing is None
    entry = entries(comparison)["visionzip:54+10, tuning not known"]
    assert entry.costs.selector_ms is None and entry.costs.vision_ms == 42.0
    assert "were not measured in one run" in to_markdown(comparison)


# ----- Intervals ---------------------------------------------------------------


def test_intervals_are_those_of_the_few_draws_there_can_be(data: Path, tmp_path: Path) -> None:
    """Of two images, A and B: both drawn from A in a quarter of the draws, both from B in another, one each in half."""
    root = tmp_path / "data"
    layout.write_gqa(root, gqa_rows(2))
    layout.write_pope(root, [{"question_id": 0, "image": "0.jpg", "text": "T?", "label": "yes"}])
    rights = {"none": "aa", "visionzip:54+10": "aa", "uniform:64": "az"}

    def says(task: str, budget: str, count: int) -> Sequence[str]:
        return rights[budget] if task == "gqa" else ["yes"] * count

    run = write_run(tmp_path / "run", root, list(rights), says)
    comparison = build_comparison([run], GRID)
    add_intervals(comparison, DataPlace(root), 4_000)
    uniform = entries(comparison)["uniform:64"]
    cell = uniform.line.cells["gqa"]
    assert (cell.retention, cell.low, cell.high) == (50, 0, 100)
    figure = uniform.against["gqa"]
    assert (figure.value, figure.low, figure.high) == (-50, -100, 0) and not figure.excludes_zero
    # POPE is the same for all: the mean is halfway, draw by draw.
    assert (uniform.mean.value, uniform.mean.low, uniform.mean.high) == (75, 50, 100)
    assert (uniform.mean_against.value, uniform.mean_against.low, uniform.mean_against.high) == (-25, -50, 0)


def test_of_many_answers_only_those_of_a_row_are_read(data: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", data)
    (run / "answers" / "gqa" / "another.jsonl").write_text("damaged")
    assert entries(compared(run, data=data, resamples=20))["uniform:64"].mean.low is not None
    renamed = run / "answers" / "gqa" / "uniform_64.jsonl"
    (run / "answers" / "gqa" / "another.jsonl").unlink()
    renamed.rename(renamed.with_name("by_hand.jsonl"))
    assert entries(compared(run, data=data, resamples=20))["uniform:64"].mean.low is not None


def test_the_same_draws_give_the_same_bytes(folder: Path, data: Path) -> None:
    first, second = (compared(folder, data=data, resamples=300) for _ in range(2))
    for write in (to_markdown, to_csv, to_latex, to_svg):
        assert write(first) == write(second)
    assert "[" in to_markdown(first).split("## Scores")[0]


# ----- Names -------------------------------------------------------------------


def test_a_tuned_model_never_stands_under_an_untuned_name(folder: Path, data: Path, tmp_path: Path) -> None:
    tuned = write_run(tmp_path / "tuned", data, ("none", "visionzip:54+10"), tuned_for="visionzip:54+10")
    comparison = compared(folder, tuned, data=data, resamples=50)
    names = [entry.label for entry in comparison.entries]
    assert len(set(names)) == len(names)
    assert "tuned visionzip:54+10, model tuned for visionzip:54+10" in names and "untuned visionzip:54+10" in names
    assert "tuned all tokens, model tuned for visionzip:54+10" in names
    by_label = entries(comparison)
    untuned = by_label["untuned visionzip:54+10"]
    assert all(comparison.reference(entry) is untuned for entry in comparison.entries if entry.budget is not None)
    markdown = to_markdown(comparison)
    assert "| tuned visionzip, model tuned for visionzip:54+10 " in markdown
    assert "training_args.json or config.json" in markdown


def test_an_adaptive_budget_of_another_mean_than_its_column_is_named(data: Path, tmp_path: Path) -> None:
    adaptive = "uniform:128,adaptive=gain,threshold=0.1"
    folder = write_run(tmp_path / "run", data)
    content = json.loads((folder / "results.json").read_text())
    grid = Grid((64,), {"visionzip:54+10": 64, adaptive: 64}, [], [])
    for tokens, is_named in ((66.0, False), (80.0, True)):
        for row in content["rows"]:
            if row["compression"] in ("uniform:64", adaptive):
                row |= {"compression": adaptive, "adaptive": True, "tokens": tokens}
        layout.write_json(folder / "results.json", content)
        notes = build_comparison([folder], grid).notes
        told = f"{adaptive}, gqa: {tokens} visual tokens a question where a fixed budget has 64.0"
        assert any(note.startswith(told) for note in notes) == is_named


def test_what_a_checkpoint_was_tuned_for_is_read_from_its_files(tmp_path: Path) -> None:
    assert origin_of(TINY).tuned_for == ""
    layout.write_json(
        tmp_path / "config.json", {"compression": {"method": "visionzip", "dominant": 17, "contextual": 3}}
    )
    assert (origin_of(tmp_path).tuned_for, origin_of(tmp_path).said_by) == ("visionzip:17+3", "config.json")
    inside = CompressionConfig.parse("visionzip:17+3|fastv:9,layer=1")
    layout.write_json(tmp_path / "config.json", {"compression": inside and inside.to_dict()})
    assert origin_of(tmp_path).tuned_for == "visionzip:17+3"  # no model is trained with a method inside it
    layout.write_json(tmp_path / "config.json", {"compression": CompressionConfig("fastv", 9).to_dict()})
    assert origin_of(tmp_path).tuned_for == ""
    adaptive = CompressionConfig.parse("visionzip:17+3,adaptive=attention,threshold=0.2")
    layout.write_json(tmp_path / "config.json", {"compression": adaptive and adaptive.to_dict()})
    assert origin_of(tmp_path).tuned_for == origin_of(tmp_path).said_by == ""  # nor under an adaptive budget
    layout.write_json(tmp_path / "training_args.json", {"model": {"compression": "visionzip:41+8"}})
    assert (origin_of(tmp_path).tuned_for, origin_of(tmp_path).said_by) == ("visionzip:41+8", "training_args.json")
    few, many = CompressionConfig("visionzip", 17, 3).to_dict(), CompressionConfig("visionzip", 82, 16).to_dict()
    entries = {"compression": few, "compression_range": {"least": few, "most": many}}
    layout.write_json(tmp_path / "config.json", entries)
    assert origin_of(tmp_path).tuned_for == "visionzip:17+3 to visionzip:82+16"  # budgets that were drawn
    layout.write_json(tmp_path / "config.json", {**entries, "compression_range": {"least": few}})
    with pytest.raises(ValueError, match=r"config\.json: compression_range .* must have least and most"):
        origin_of(tmp_path)
    layout.write_json(tmp_path / "training_args.json", {"model": {"compression": "nonsense"}})
    with pytest.raises(ValueError, match=r"training_args\.json: compression: "):
        origin_of(tmp_path)
