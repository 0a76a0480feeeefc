"""The budget of each step: curves, draws, both; grammar and refusals. No model is loaded."""

from __future__ import annotations

import pytest

from llava.model.anyres import TileLayout
from llava.model.configuration import CompressionConfig
from llava.model.image_rules import ImageRules
from llava.model.tuned_range import TunedRange
from llava.train.budgets import MostVisualTokens, make_plan, parse_draw
from llava.train.flags import TrainingFlags

K20 = CompressionConfig("visionzip", 17, 3)


def rules(side: int = 14, family: str = "llava") -> ImageRules:
    layout = TileLayout(patches_per_side=side, tile_size=14 * side, merge_type="flat", pinpoints=(), rule="llava")
    return ImageRules("pad", layout, has_cls=True, drops_cls=True, family=family)


def plan(final=K20, seed=0, tile=None, **flags):
    return make_plan(TrainingFlags(**flags), final, tile or rules(), seed)


def falling(curve: str, steps: int = 8, **flags) -> list[int]:
    made = plan(compression_schedule=curve, compression_share=1.0, **flags)
    return [made.at(step, steps).tokens for step in range(steps + 2)]


# ---- falling ----


def test_curves_begin_with_all_tokens_and_end_with_the_final_budget():
    assert falling("linear") == [196, 174, 152, 130, 108, 86, 64, 42, 20, 20]
    # 20 + 88 (1 + cos(pi k / 8))
    assert falling("cosine") == [196, 189, 170, 142, 108, 74, 46, 27, 20, 20]
    # 196, and its half, quarter and eighth, each for two of eight steps
    assert falling("steps") == [196, 196, 98, 98, 49, 49, 24, 24, 20, 20]


def test_the_fall_ends_with_its_share_and_the_split_stays_in_proportion():
    made = plan(compression_schedule="linear", compression_share=0.5, compression_start="98")
    found = [made.at(step, 12).budget for step in range(12)]
    assert [each.num_tokens for each in found] == [98, 85, 72, 59, 46, 33, *[20] * 6]
    assert [each.contextual for each in found] == [15, 13, 11, 9, 7, 5, *[3] * 6]  # 3 of 20, rounded
    assert found[-1] == K20 and plan(compression_schedule="linear").at(0, 12).budget is None


def test_a_method_with_few_budgets_takes_the_next_larger_one():
    """Squares of 2 and 3 patches, of 12 by 12: it can have 36 and 16 tokens only."""
    final = CompressionConfig.parse("pool:16,kind=average")
    made = plan(final, tile=rules(12), compression_schedule="linear", compression_share=1.0)
    assert [made.at(step, 8).tokens for step in range(9)] == [144, 144, 144, 144, 144, 144, 144, 36, 16]


def test_a_budget_that_is_named_is_taken_as_it_is():
    made = plan(compression_schedule="linear", compression_start="visionzip:90+1")
    assert str(made.at(0, 10).budget) == "visionzip:90+1" and made.tuned_for is None


# ---- drawn ----


def test_draws_follow_from_seed_and_step_and_cover_the_range():
    made, again, other = (plan(compression_draw="20-98", seed=seed) for seed in (1, 1, 2))
    found = [made.at(step, 10**9) for step in range(4000)]
    assert found == [again.at(step, 5) for step in range(4000)]  # whatever the run's length
    assert found != [other.at(step, 5) for step in range(4000)]
    counts = {tokens: [rung.tokens for rung in found].count(tokens) for tokens in range(20, 99)}
    assert sum(counts.values()) == 4000
    assert min(counts.values()) > 20 and max(counts.values()) < 90  # 51 of each on average
    assert all(rung.budget.contextual == round(rung.tokens * 3 / 20) for rung in found)


def test_the_first_draws_are_written_down():
    """A run that goes on under a newer version must go on with the same budgets."""
    made = plan(compression_draw="20-98", seed=42)
    assert [made.at(step, 10).tokens for step in range(8)] == [53, 71, 31, 73, 98, 82, 82, 82]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("20-98", ["20-98"]),
        ("20,49, 98", ["20-20", "49-49", "98-98"]),
        ("visionzip:17+3,visionzip:41+8,seed=1,none", ["visionzip:17+3", "visionzip:41+8,seed=1", "none"]),
        ("20,visionzip:41+8,60-70", ["20-20", "visionzip:41+8", "60-70"]),
        ("a.b:3,layers=2/6,x=none,a.b:4", ["a.b:3,layers=2/6,x=none", "a.b:4"]),
    ],
)
def test_what_is_drawn_is_written_as_budgets_and_totals(text, found):
    items = parse_draw(text)
    shown = [f"{each[0]}-{each[1]}" if isinstance(each, tuple) else str(each or "none") for each in items]
    assert shown == found


def test_of_a_list_each_item_is_as_likely_and_the_range_is_told():
    made = plan(compression_draw="visionzip:17+3,visionzip:41+8,none")
    found = [str(made.at(step, 1).budget or "none") for step in range(600)]
    assert all(160 < found.count(name) < 240 for name in ("visionzip:17+3", "visionzip:41+8", "none"))
    assert str(made.tuned_for) == "visionzip:17+3 to visionzip:41+8"


def test_drawn_and_falling_the_larger_counts():
    flags = {"compression_draw": "20-98", "compression_schedule": "linear", "compression_share": 1.0}
    both, drawn = plan(**flags), plan(compression_draw="20-98")
    floor = plan(compression_schedule="linear", compression_share=1.0)
    for step in range(20):
        expected = max(drawn.at(step, 16).tokens, floor.at(step, 16).tokens)
        assert both.at(step, 16).tokens == expected
    assert both.at(0, 16).budget is None and both.at(17, 16) == drawn.at(17, 16)


def test_it_falls_to_the_fewest_that_are_drawn():
    made = plan(CompressionConfig("visionzip", 41, 8), compression_draw="20-98", compression_schedule="linear")
    assert min(made.at(step, 10).tokens for step in range(5, 400)) == 20 and made.final.tokens == 49


# ---- what the result serves ----


def test_a_range_holds_its_budgets_and_is_read_again():
    found = plan(compression_draw="20-98").tuned_for
    assert TunedRange.parse(str(found)) == TunedRange.from_config({"compression_range": found.to_dict()}) == found
    inside = ["visionzip:17+3", "visionzip:41+8", "visionzip:98"]
    inside += ["visionzip:82+16,adaptive=attention,threshold=0.2,floor=20"]
    outside = [
        "visionzip:82+16,adaptive=attention,threshold=0.2,floor=19",
        "visionzip:16+3",
        "visionzip:99",
        "scope:49",
        "visionzip:41+8,merge=mean",
        "none",
    ]
    assert [found.holds(CompressionConfig.parse(text)) for text in inside + outside] == [True] * 4 + [False] * 6
    single = TunedRange.from_config({"compression": K20.to_dict()})
    assert single.holds(K20) and not single.holds(K20.with_total(21)) and str(single) == "visionzip:17+3"


def test_samples_are_cut_by_the_most_that_an_image_takes():
    count = MostVisualTokens(rules(), (K20, CompressionConfig("visionzip", 82, 16)))
    assert count([(10, 10), (30, 20)]) == [98, 98]
    assert MostVisualTokens(rules(), (K20, None))([(10, 10)]) == [196]


# ---- refused ----


@pytest.mark.parametrize(
    ("final", "flags", "message"),
    [
        (None, {"compression_schedule": "linear"}, "--compression_schedule linear: give --compression, the budget"),
        (None, {"compression_draw": "20-98"}, "--compression_draw 20-98: give --compression"),
        (K20, {"compression_schedule": "linear", "compression_start": "20"}, "--compression_start 20 has 20 tokens,"),
        (
            K20,
            {"compression_schedule": "linear", "compression_start": "0"},
            "--compression_start 0: compression.dominant must",
        ),
        (K20, {"compression_schedule": "linear", "compression_start": "500"}, "--compression_start 500: compression"),
        (K20, {"compression_schedule": "linear", "compression_start": "many"}, "--compression_start many: compression"),
        (K20, {"compression_schedule": "linear", "compression_start": "scope:98"}, "--compression_start scope:98: sco"),
        (K20, {"compression_draw": "30-98"}, "--compression_draw 30-98: --compression visionzip:17+3 is not within"),
        (K20, {"compression_draw": "none"}, "--compression_draw none: --compression visionzip:17+3 is not within it"),
        (K20, {"compression_draw": "scope:20,20"}, "--compression_draw scope:20,20: scope:20 is not of the method"),
        (K20, {"compression_draw": "20,visionzip:41+8,seed=3"}, "--compression_draw 20,visionzip:41+8,seed=3: vis"),
        (K20, {"compression_draw": "300-400"}, "--compression_draw 300-400: visionzip can have none of the totals"),
        (K20, {"compression_draw": "300"}, "--compression_draw 300: compression visionzip:255+45: dominant=255 is out"),
        (K20, {"compression_draw": "98-20"}, "--compression_draw 98-20: 98-20 is no range of totals from few to many"),
        (K20, {"compression_draw": "0-20"}, "--compression_draw 0-20: 0-20 is no range"),
        (K20, {"compression_draw": "few"}, "--compression_draw few: compression 'few' is not of the form"),
        (K20, {"compression_draw": ""}, "--compression_draw : compression '' is not of the form"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(final, flags, message):
    with pytest.raises(ValueError) as refused:
        plan(final, **flags)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_without_flags_there_is_no_plan():
    assert plan() is None and plan(None) is None
