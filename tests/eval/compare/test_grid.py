"""The grid of a comparison: methods with options, budgets, what is refused, and flags."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llava import LlavaForConditionalGeneration
from llava.eval.compare.command import main
from llava.eval.compare.grid import budgets_of, make_grid
from llava.eval.compare.methods import Method, marks_of, name_without_budget, parse_methods
from llava.eval.model_origin import config_of
from llava.model.configuration import CompressionConfig
from llava.model.language_pruning import PRUNERS
from llava.model.multimodal_compressor import COMPRESSORS, keep_patches, register_compressor
from tests.eval.compare.conftest import (
    ROOT,
    TINY,
)


def test_methods_may_have_options_and_no_budget() -> None:
    assert parse_methods("uniform, random,seed=4") == [Method("uniform"), Method("random", "seed=4")]
    assert parse_methods("visionzip,merge=mean")[0].with_budget(64) == CompressionConfig("visionzip", 54, 10, "mean")
    assert str(Method("visionzip").with_budget(192)) == "visionzip:162+30"
    assert str(Method("visionzip").with_budget(2)) == "visionzip:2"
    assert str(Method("uniform").with_budget(64)) == "uniform:64"
    assert {method.name for method in parse_methods("all")} == {*COMPRESSORS.names(), *PRUNERS.names()}
    assert (
        str(parse_methods("visionzip:108+20|fastv,layer=3")[0].with_budget(64)) == "visionzip:108+20|fastv:64,layer=3"
    )
    budget = CompressionConfig.parse("visionzip:54+10,merge=mean")
    assert name_without_budget(budget) == "visionzip,merge=mean"
    assert name_without_budget(CompressionConfig.parse("random:64,seed=2")) == "random"
    assert name_without_budget(CompressionConfig.parse("visionzip:108+20|later:64,k=2")) == "visionzip:108+20|later,k=2"
    for text, message in (
        ("merge=mean,visionzip", "stands before the method"),
        ("visionzip:54+10", "has a budget; leave it out"),
        ("nothing_like_it", "there is no 'nothing_like_it'; there are: .*visionzip.*fastv"),
        ("visionzip:54+10|uniform", "unknown method inside the language model 'uniform'"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_methods(text)


@pytest.fixture
def by_clip() -> Iterator[str]:
    """A method that reads the question by CLIP where there is one, as CDPruner does."""
    register_compressor("by_clip", wants={"clip_joint"})(lambda features, budget: keep_patches(features, None))
    yield "by_clip:64"
    COMPRESSORS._forget(__name__)


def test_marks_say_what_reads_the_question(by_clip: str) -> None:
    assert marks_of(CompressionConfig.parse("visionzip:54+10"), has_clip=False).multi_turn
    budget = CompressionConfig.parse(by_clip)
    alone, read = marks_of(budget, has_clip=False), marks_of(budget, has_clip=True)
    assert (alone.multi_turn, alone.text_free) == (True, True)
    assert (read.multi_turn, read.text_free) == (False, False)
    inside = marks_of(CompressionConfig.parse("visionzip:54+10|fastv:20"), has_clip=False)
    assert (inside.multi_turn, inside.servable) == (False, False) and "VisionZip" in inside.source
    assert "FastV" in inside.source and marks_of(CompressionConfig("divprune", 64), has_clip=False).rule == "reference"
    asking = marks_of(CompressionConfig("mmtok", 64), has_clip=False)
    assert (asking.multi_turn, asking.servable) == (False, False)
    unknown = marks_of(CompressionConfig("gone", 64), has_clip=False)
    assert (unknown.multi_turn, unknown.servable) == (None, None)


# ----- The grid ----------------------------------------------------------------


PLUGIN = '''
from llava.model.multimodal_compressor import register_compressor

def only_even(budget, tile):
    """Refuses odd numbers."""
    if budget.num_tokens % 2:
        raise ValueError(f"compression {budget}: only even numbers")

@register_compressor("even", check=only_even)
def even(features, budget):
    """Never called."""

@register_compressor("asks_clip", needs={"clip_joint"})
def asks_clip(features, budget):
    """Never called."""
'''


def test_a_dry_run_lists_the_grid_and_why_pairs_are_left_out(tmp_path: Path) -> None:
    plugin = tmp_path / "even.py"
    plugin.write_text(PLUGIN)
    words = ["--model-path", str(TINY), "--methods", "even,asks_clip,uniform", "--budgets", "49,20,400"]
    words += ["--tasks", "tiny_vqa", "--output-dir", str(tmp_path / "out"), "--seeds", "2", "--dry-run"]
    command = [sys.executable, "-m", "llava.eval.compare", *words, "--plugin", str(plugin)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    runs, _, left = done.stdout.partition("left out:\n")
    for budget in (
        "none",
        "visionzip:41+8",
        "visionzip:17+3",
        "random:49",
        "random:49,seed=1",
        "uniform:20",
        "even:20",
    ):
        assert f"  {budget}\n" in runs
    assert "seed=2" not in runs and "even:49" not in runs and ":400" not in runs
    assert "  even at 49: only even numbers\n" in left
    assert left.count("asks_clip at ") == 3 and "give --clip-text" in left
    assert left.count("random at 400: dominant=400 is outside 1..196") == 1
    assert not (tmp_path / "out").exists()


def test_what_every_pair_that_is_run_says_is_said_by_the_grid() -> None:
    """What only the width of the projector tells counts too: a refusal after the model is loaded would end the run."""
    config = config_of(TINY)
    every = parse_methods("all,prumerge_plus,rule=distinct")
    grid = make_grid(every, [140, 98], config, seeds=1, has_clip=True)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    for budget in grid.configs:
        model.set_compression(budget)
    assert any(pair.method == "cdpruner" and pair.tokens == 140 for pair in grid.refused)


def test_totals_are_of_five_tiles(oracle_dir: Path) -> None:
    tiled, single = (config_of(oracle_dir / name) for name in ("tiny-llava-v1.6-next", "tiny-llava-v1.5"))
    assert budgets_of(None, "640,320,160", tiled) == [128, 64, 32]
    assert budgets_of("192,64,192", None, single) == [192, 64]
    grid = make_grid([], [128], tiled, seeds=1)
    assert [str(budget) for budget in grid.configs][:2] == ["None", "visionzip:108+20"]
    # Inside the language model a budget is of the whole image: five tiles of 300.
    grid = make_grid(parse_methods("pyramiddrop"), [300], tiled, seeds=1)
    assert grid.tokens["pyramiddrop:1500"] == 300 and str(grid.configs[1]) == "visionzip:253+47"
    compiled = make_grid(parse_methods("pyramiddrop"), [300], tiled, seeds=1, compiled=True)
    assert [(pair.method, pair.tokens) for pair in compiled.refused] == [("pyramiddrop", 300)]
    assert compiled.refused[0].reason.startswith("--compile does not go with")
    for budgets, total, config, message in (
        (None, "640", single, "this model has one"),
        (None, "641", tiled, "does not divide evenly over 5 tiles"),
        ("a", None, single, "give whole numbers"),
        ("0", None, single, "1 or more each"),
        (",", None, single, "1 or more each"),
    ):
        with pytest.raises(ValueError, match=message):
            budgets_of(budgets, total, config)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--model-path, --tasks, --output-dir: needed"),
        (["--budgets", "49", "--total", "640"], "give --budgets, tokens a tile, or --total"),
        ([], "give --budgets, tokens a tile, or --total"),
        (["--budgets", "49", "--methods", "nothing_like_it"], "there is no 'nothing_like_it'"),
        (["--budgets", "49", "--methods", ","], "--methods ',': give names separated by commas"),
        (["--budgets", "49", "--methods", "scope,alpha=much"], "alpha='much' must be a number"),
        (["--budgets", "98", "--methods", "fastv,layers=1"], "layers"),
        (["--budgets", "5000"], "no method takes any of these budgets"),
        (["--budgets", "49", "--methods", "all", "--baselines"], "--baselines compares no other methods"),
        (["--budgets", "49", "--exact", "--batch-size", "4"], "--exact asks questions one by one"),
    ],
)
def test_wrong_flags_end_in_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = ["--model-path", str(TINY), "--tasks", "tiny_vqa", "--output-dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        main([*(needed if "needed" not in message else []), *words])
    assert end.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]
