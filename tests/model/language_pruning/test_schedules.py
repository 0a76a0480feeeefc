"""A budget inside the language model is the mean of the image rows that its layers read."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import fmean

import pytest

from llava.model.configuration import CompressionConfig
from llava.model.language_pruning import PRUNERS, Schedule, Stage

PUBLISHED = {  # of 576 rows in 32 layers
    "fastv:306,schedule=paper": [576] * 2 + [288] * 30,
    "fastv:185,schedule=demo": [576] * 3 + [144] * 29,  # 184.5
    "fastv:315,schedule=lmms_eval": [576] * 3 + [288] * 29,
    "fastv:315,layer=3,ratio=0.5": [576] * 3 + [288] * 29,
    "pyramiddrop:270,schedule=published": [576] * 8 + [288] * 8 + [144] * 8 + [72] * 8,
    "sparsevlm:207,schedule=192": [576] * 3 + [309] * 4 + [204] * 9 + [113] * 16,
    "sparsevlm:145,schedule=128": [576] * 3 + [312] * 4 + [117] * 9 + [39] * 16,
    "sparsevlm:114,schedule=96": [576] * 3 + [249] * 4 + [55] * 9 + [27] * 16,
    "sparsevlm:82,schedule=64": [576] * 3 + [82] * 4 + [32] * 9 + [18] * 16,
    "sparsevlm:207,schedule=192,version=2": [576] * 3 + [300] * 4 + [200] * 9 + [118] * 16,
    "sparsevlm:82,schedule=64,version=2": [576] * 3 + [66] * 4 + [34] * 9 + [20] * 16,
}


def bound(text: str, num_layers: int):
    budget = CompressionConfig.parse(text)
    return PRUNERS.get(budget.method).bind(budget, num_layers), budget


@pytest.mark.parametrize("text", PUBLISHED)
def test_published_schedules(text):
    """The number of a published one is its rounded mean, whatever the paper calls it."""
    pruner, budget = bound(text, 32)
    assert pruner.schedule(576).rows_per_layer == PUBLISHED[text]
    pruner.pruner.check(budget, 576, 32)
    assert abs(pruner.schedule(576).mean_rows - budget.num_tokens) <= 0.5
    wrong = CompressionConfig.parse(text.replace(str(budget.num_tokens), "64", 1))
    with pytest.raises(
        ValueError, match=f"that is {budget.num_tokens} for an image of 576 rows.*write {budget.method}"
    ):
        pruner.pruner.check(wrong, 576, 32)


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop", "sparsevlm", "sparsevlm:V2"])
@pytest.mark.parametrize("num_layers", [6, 24, 32, 40])
@pytest.mark.parametrize("rows", [576, 2880])
def test_the_mean_is_met(method, num_layers, rows):
    """As nearly as a last stage of whole rows allows, for every budget that is accepted."""
    name, _, version = method.partition(":")
    options = ",version=2" if version else ""
    met = 0
    for mean in range(1, rows + 1, max(1, rows // 30)):
        pruner, budget = bound(f"{name}:{mean}{options}", num_layers)
        try:
            pruner.pruner.check(budget, rows, num_layers)
        except ValueError as error:
            assert f"..{rows} for an image of {rows} rows" in str(error)
            continue
        schedule = pruner.schedule(rows)
        read = schedule.rows_per_layer
        last = schedule.stages[-1]
        assert len(read) == num_layers and read[0] == rows and read == sorted(read, reverse=True)
        assert last.rows >= 1
        # One row more or less in the last stage moves the mean by its share of the layers.
        assert abs(fmean(read) - mean) <= (num_layers - last.layers_run) / num_layers, (mean, read)
        met += 1
    assert met > 10


def test_rounding_is_half_a_row_of_the_last_stage():
    for name in ("fastv", "pyramiddrop"):
        for mean in range(60, 577, 7):
            schedule = bound(f"{name}:{mean}", 32)[0].schedule(576)
            behind = 32 - schedule.stages[-1].layers_run
            assert abs(schedule.mean_rows - mean) <= behind / 64 + 1e-9


def test_pyramiddrop_goes_to_earlier_layers_for_small_budgets():
    """A stage leaves a quarter of what it is given at least; the published layers come first."""
    for mean, layers in {270: (8, 16, 24), 192: (8, 16, 24), 128: (4, 8, 12), 64: (2, 4, 6), 30: (1, 2, 3)}.items():
        stages = bound(f"pyramiddrop:{mean}", 32)[0].schedule(576).stages
        assert tuple(stage.layers_run for stage in stages) == layers and (mean < 50 or stages[0].kept >= 144)


def test_between_published_lists():
    """At the mean of a published list of SparseVLM, `sparsevlm:K` is that list but for rounding in the last stage."""
    for version, named in ((1, {192: 207, 128: 145, 96: 114, 64: 82}), (2, {192: 207, 96: 113, 64: 82})):
        for name, mean in named.items():
            found = bound(f"sparsevlm:{mean},version={version}", 32)[0].schedule(576).stages
            listed = bound(f"sparsevlm:{mean},version={version},schedule={name}", 32)[0].schedule(576).stages
            for ours, theirs in zip(found, listed, strict=True):
                assert ours.layers_run == theirs.layers_run
                assert ours.kept == pytest.approx(theirs.kept, abs=6)


def test_an_image_with_fewer_rows_than_the_budget_keeps_them():
    for name in ("fastv", "pyramiddrop", "sparsevlm"):
        assert bound(f"{name}:64", 32)[0].schedule(50).rows_per_layer == [50] * 32


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("fastv:30", "in 37..576 for an image of 576 rows, pruned after 2 of 32 layers; got 30"),
        ("fastv:577", "in 37..576 .*got 577"),
        ("fastv:64,layer=32", "layer=32: numbers of layers that have run must rise and lie in 1..31"),
        ("fastv:64,layer=0", "layer=0: numbers of layers"),
        ("fastv:64,layer=2.5", "layer=2.5 must be a whole number"),
        ("fastv:64+10", "takes one number"),
        ("fastv:64,merge=mean", "takes one number"),
        ("fastv:64,ratio=1.0", "ratio=1.0 is outside"),
        ("fastv:306,schedule=paper,layer=3", "schedule=paper is layer=2,ratio=0.5; leave layer and ratio out"),
        (
            "fastv:64,rank=3",
            "fastv has no option rank; it has: merge, seed, tiles, positions, keep_cls, adaptive, ",
        ),
        ("pyramiddrop:270,layers=8/4", "layers=8/4: numbers of layers that have run must rise"),
        ("pyramiddrop:270,layers=8/16,ratios=0.5/", "ratios has 1 numbers, and layers has 2"),
        ("pyramiddrop:270,layers=8/16,ratios=0.2/0.5", "must fall and lie in 0..1"),
        ("pyramiddrop:270,schedule=published,layers=8/", "leave layers and ratios out"),
        ("sparsevlm:64,version=3", "version=3 must be one of 1, 2"),
        ("sparsevlm:64,schedule=100", "schedule=100 must be one of mean, 64, 96, 128, 192"),
        ("sparsevlm:64,layers=1/2/3/4", "there are 3 stages at most"),
        ("sparsevlm:40", "in 55..576|in 5[0-9]..576"),
    ],
)
def test_refusals_name_the_range(text, named):
    budget = CompressionConfig.parse(text)
    with pytest.raises(ValueError, match=named) as refused:
        PRUNERS.get(budget.method).check(budget, 576, 32)
    assert "\n" not in str(refused.value)


def test_the_numbers_of_the_page():
    """Each published schedule stands in the docs with the number that is accepted for it."""
    page = (Path(__file__).parents[3] / "docs" / "inside_the_language_model.md").read_text(encoding="utf-8")
    written = set(re.findall(r"`(\w+:\d+,(?:version=2,)?schedule=\w+)`", page))
    assert len(written) == 10
    for text in written:
        pruner, budget = bound(text, 32)
        pruner.pruner.check(budget, 576, 32)
    for name in ("fastv", "pyramiddrop", "sparsevlm"):
        shown = next(line for line in page.splitlines() if line.startswith(f"| `{name}:K`"))
        for mean in (192, 128, 64):
            kept = ", ".join(str(stage.kept) for stage in bound(f"{name}:{mean}", 32)[0].schedule(576).stages)
            assert kept in shown, (name, mean, kept)


def test_rows_per_layer():
    schedule = Schedule(10, 5, (Stage(1, 6, 1), Stage(4, 2)))
    assert schedule.rows_per_layer == [10, 7, 7, 7, 2] and schedule.mean_rows == 33 / 5
