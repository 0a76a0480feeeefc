"""`llava calibrate`: the wanted mean on the calibration set, a budget that other commands take, errors in a line."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava.eval.calibrate import main
from llava.eval.command import main as evaluate
from llava.eval.compare.command import main as compare
from llava.eval.compare.methods import marks_of, name_without_budget
from llava.eval.results import format_table, read_results, tokens_of
from llava.inference import Inference, Question
from llava.inference.calibration import threshold_for
from llava.model.adaptive_budget import ADAPTIVE_RULES, AdaptiveK
from llava.model.checkpoints.fingerprint import model_fingerprint
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.adaptive import count_kept
from llava.results.rows import token_counts

TINY_MODEL = Path(__file__).parents[2] / "playground" / "tiny" / "model"


@pytest.fixture(scope="module")
def checkpoint(oracle_dir):
    return str(oracle_dir / "tiny-llava-v1.5")


def run(checkpoint, *flags):
    return main(["--model-path", checkpoint, "--device", "cpu", *map(str, flags)])


# ----- The threshold -----------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_mean_is_hit_exactly_where_levels_differ(data):
    tiles, most = data.draw(st.integers(1, 9)), data.draw(st.integers(2, 20))
    floor = data.draw(st.integers(1, most))
    wanted = data.draw(st.integers(floor, most))
    places = torch.randperm(tiles * most, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    levels = ((places + 1) / (tiles * most + 1)).view(tiles, most).sort(dim=1, descending=True).values
    threshold = threshold_for(levels, wanted, floor)
    kept = count_kept(levels, AdaptiveK("gain", threshold, floor))
    assert int(kept.sum()) == wanted * tiles and int(kept.min()) >= floor
    assert len(f"{threshold}") <= 8  # few digits


def test_equal_levels_go_together_to_the_nearer_mean():
    levels = torch.tensor([[0.9, 0.5, 0.5, 0.5, 0.1]])
    for wanted, expected in ((1, 1), (2, 1), (3, 4), (4, 4), (5, 5)):
        threshold = threshold_for(levels, wanted, 1)
        assert count_kept(levels, AdaptiveK("gain", threshold)).tolist() == [expected]
    assert threshold_for(torch.zeros(2, 4), 3, 1) == 0.0  # nothing to gain: nothing above it


def test_counts_of_a_row():
    assert token_counts([]) == {"tokens": 0, "tokens_p95": 0, "tokens_max": 0}
    assert token_counts([7, 7]) == {"tokens": 7, "tokens_p95": 7, "tokens_max": 7}
    assert token_counts(range(1, 101)) == {"tokens": 50.5, "tokens_p95": 95, "tokens_max": 100}
    assert tokens_of({"tokens": 50.5, "tokens_p95": 95, "tokens_max": 100}) == "50.5 (p95 95, max 100)"
    assert tokens_of({"tokens": 49}) == tokens_of(token_counts([49])) == "49"


# ----- The command -------------------------------------------------------------


@pytest.mark.parametrize("rule", ADAPTIVE_RULES)
def test_the_mean_is_hit_and_the_budget_is_taken(checkpoint, oracle_dir, tmp_path, capsys, rule):
    output = tmp_path / "budget.json"
    flags = ["--compression", "coverage:30", "--rule", rule, "--images", oracle_dir / "images", "--output", output]
    assert run(checkpoint, *flags, "--batch-size", 2) == 0
    said, written = capsys.readouterr().out, json.loads(output.read_text(encoding="utf-8"))
    budget = CompressionConfig.parse(written["compression"])
    assert written["model"]["path"] == str(checkpoint) and written["model"]["fingerprint"] == model_fingerprint(
        checkpoint
    )
    assert abs(written["tokens_a_tile"]["mean"] - 30) <= 1 and f"\n{budget}\n" in said
    assert (budget.num_tokens, budget.adaptive.floor, budget.adaptive.rule) == (60, 7, rule)
    files = sorted((oracle_dir / "images").glob("*.png"))
    inference = Inference.load(checkpoint, device="cpu", compression=written["compression"])
    kept = [len(image) for image in inference.encode(inference.open(files))]
    assert statistics.mean(kept) == written["tokens_a_tile"]["mean"] and max(kept) == written["tokens_a_tile"]["max"]
    assert written["images"] == written["tiles"] == len(files) == len(kept)
    answer = inference.ask_one("What is this?", files[0])
    assert answer.visual_tokens == kept[0]
    assert next(inference.ask([Question("What is this?", (files[0],))])).visual_tokens == kept[0]


def test_a_comparison_sets_it_beside_its_mean(checkpoint, oracle_dir, tmp_path, capsys):
    file = tmp_path / "budget.json"
    run(checkpoint, "--compression", "coverage:30", "--images", oracle_dir / "images", "--output", file)
    capsys.readouterr()
    flags = ["--model-path", checkpoint, "--methods", "coverage", "--tasks", "tiny_vqa", "--dry-run"]
    flags += ["--output-dir", str(tmp_path / "out"), "--calibrated", str(file)]
    assert compare([*flags, "--budgets", "30"]) == 0
    budget = json.loads(file.read_text(encoding="utf-8"))["compression"]
    assert f"  {budget}\n" in capsys.readouterr().out
    parsed = CompressionConfig.parse(budget)
    assert (
        name_without_budget(parsed) == "coverage,adaptive=gain" and marks_of(parsed, has_clip=False).servable is False
    )
    other = tmp_path / "other.json"
    other.write_text(file.read_text(encoding="utf-8").replace("floor=7", "floor=3"), encoding="utf-8")
    with pytest.raises(SystemExit):
        compare([*flags, "--budgets", "30", "--calibrated", str(other)])
    assert "are both coverage,adaptive=gain at a mean of 30; compare them apart" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        compare([*flags, "--budgets", "40"])
    assert "its mean of 30 tokens a tile is none of the budgets 40" in capsys.readouterr().err
    file.write_text('{"compression": "coverage:30"}', encoding="utf-8")
    with pytest.raises(SystemExit):
        compare([*flags, "--budgets", "30"])
    assert "is not what `llava calibrate --output` writes" in capsys.readouterr().err


def test_what_cannot_be_calibrated_is_said_in_a_line(checkpoint, oracle_dir, tmp_path, capsys):
    images = oracle_dir / "images"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image", encoding="utf-8")
    (tmp_path / "broken.png").write_bytes(b"no image")
    for budget, flags, message in (
        ("coverage:30", [tmp_path / "empty"], "there is no image (.jpg"),
        ("coverage:30", [tmp_path / "nowhere"], "nowhere: there is no such file or folder"),
        ("coverage:30", [tmp_path / "broken.png"], "broken.png"),
        ("none", [images], "has no tokens to choose"),
        ("divprune:30", [images], "needs a method that has an order of selection"),
        ("coverage:900", [images], "dominant=900 is outside 1..576"),
        ("coverage:30", [images, "--most", "20"], "not between the floor 7 and the most 20"),
        ("coverage:30", [images, "--floor", "61"], "not between the floor 61 and the most 60"),
        ("coverage:30", [images, "--rule", "rank", "--floor", "30", "--most", "30"], "floor and most are both 30"),
        ("coverage:30,adaptive=gain,threshold=0.1", [images], "give a fixed budget"),
        ("coverage:30,tiles=gain", [images], "leave one of them out"),
    ):
        with pytest.raises(SystemExit) as ended:
            run(checkpoint, "--compression", budget, "--images", *flags)
        assert isinstance(ended.value.code, str) and message in ended.value.code and "\n" not in ended.value.code
    for flags in ([], ["--images", images, "--tasks", "pope"]):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            run(checkpoint, "--compression", "coverage:30", *flags)
        assert "give --images, files and folders, or --tasks" in capsys.readouterr().err


def test_a_file_in_place_of_a_budget(tmp_path, capsys, checkpoint, oracle_dir):
    file = tmp_path / "budget.json"
    for content, message in ((None, "No such file"), ("[1]", "there is no compression"), ("{", "Expecting property")):
        if content is not None:
            file.write_text(content, encoding="utf-8")
        with pytest.raises(SystemExit):
            run(checkpoint, "--compression", f"@{file}", "--images", oracle_dir / "images")
        assert message in capsys.readouterr().err


def test_rows_of_an_evaluation(tmp_path, tiny_data):
    """Mean, 95th percentile and maximum; in batches as by --exact."""
    budget = "coverage:30,adaptive=gain,threshold=0.0114,floor=5"
    rows = []
    for name, more in (("batch", []), ("exact", ["--exact"])):
        flags = ["--model-path", str(TINY_MODEL), "--data-root", str(tiny_data), "--tasks", "tiny_vqa"]
        flags += ["--compression", budget, "--limit", "6"]
        flags += ["--output-dir", str(tmp_path / name), "--device", "cpu", "--latency-repeats", "1", *more]
        assert evaluate(flags) == 0
        rows += read_results(tmp_path / name / "results.json")
    first, second = rows
    assert first["adaptive"] and 5 <= first["tokens"] < first["tokens_max"] <= 30
    assert [first[name] for name in ("tokens", "tokens_p95", "tokens_max", "accuracy")] == [
        second[name] for name in ("tokens", "tokens_p95", "tokens_max", "accuracy")
    ]
    assert f"(p95 {first['tokens_p95']}, max {first['tokens_max']})" in format_table([first])
