"""The one short form of a budget: METHOD:D[+C][,key=value...], two stages joined by |."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava.model.configuration import CompressionConfig, _explain_split, as_compression

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,8}", fullmatch=True)
WORDS = NAMES.filter(lambda text: text not in ("true", "false", "nan", "inf", "infinity") and not _is_number(text))
SINGLE = st.one_of(st.booleans(), st.integers(-9999, 9999), st.floats(allow_nan=False, allow_infinity=False), WORDS)
OPTIONS = st.dictionaries(
    NAMES.filter(lambda name: name not in ("merge", "seed")), st.one_of(SINGLE, st.lists(SINGLE, max_size=3).map(tuple))
)


NOTHING = st.none()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def budgets(then=NOTHING):
    return st.builds(
        CompressionConfig,
        NAMES.filter(lambda name: name.lower() != "none"),
        st.integers(1, 4096),
        st.integers(0, 4096),
        merge=st.sampled_from(["reference", "mean"]),
        seed=st.integers(0, 2**63 - 1),
        options=OPTIONS,
        then=then,
    )


@given(budgets(st.none() | budgets()))
def test_what_is_written_is_read_again(budget):
    assert CompressionConfig.parse(str(budget)) == budget
    assert as_compression(budget.to_dict()) == budget
    assert str(CompressionConfig.parse(str(budget))) == str(budget)


def test_values_have_the_types_they_look_like():
    budget = CompressionConfig.parse("scope:64,alpha=1.5,layers=2/6,only=3/,none=/,greedy=true,mode=fast,n=-3")
    assert budget.options == {
        "alpha": 1.5, "layers": (2, 6), "only": (3,), "none": (), "greedy": True, "mode": "fast", "n": -3,
    }  # fmt: skip
    assert [type(value) for value in budget.options.values()] == [float, bool, tuple, str, int, tuple, tuple]


def test_two_stages():
    budget = CompressionConfig.parse("visionzip:108+20|fastv:64,layer=2")
    assert budget.num_tokens == 128 and budget.then == CompressionConfig("fastv", 64, options={"layer": 2})
    assert str(budget) == "visionzip:108+20|fastv:64,layer=2"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("visionzip", "METHOD:DOMINANT"),
        ("visionzip:54+10,", "METHOD:DOMINANT"),
        ("visionzip:54+10,merge", "'merge' is not of the form key=value"),
        ("visionzip:54+10,seed=1,seed=2", "'seed=2' stands twice"),
        ("visionzip:54+10,merge=sum", "merge must be one of reference, mean"),
        ("visionzip:54+10,seed=x", "seed must be an int"),
        ("a:1|b:2|c:3", "3 stages"),
        ("a:1|none", "METHOD:DOMINANT"),
        ("a:1,b=two words", "none of a number, true, false or a word"),
        ("visionzip:0", "dominant must be at least 1"),
        ("a:1,b=\u0661", "none of a number"),
    ],
)
def test_what_is_not_of_the_form_is_named(text, named):
    with pytest.raises((TypeError, ValueError), match=named):
        CompressionConfig.parse(text)


def test_entries_written_before_options_are_read_and_written_as_they_were():
    entries = {"method": "visionzip", "dominant": 54, "contextual": 10, "merge": "reference", "seed": 0}
    budget = as_compression(entries)
    assert budget == CompressionConfig("visionzip", 54, 10) and budget.to_dict() == entries


def test_a_total_for_visionzip_is_explained_once(caplog):
    _explain_split.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [CompressionConfig.parse("visionzip:64").contextual for _ in range(2)] == [0, 0]
        CompressionConfig.parse("visionzip:54+10")
        CompressionConfig.parse("random:64")
    assert [record.getMessage() for record in caplog.records] == [
        "visionzip:64 merges nothing; the paper splits as visionzip:54+10"
    ]


def test_options_cannot_be_changed_and_a_budget_can_be_copied_and_sent():
    entries = {"layer": 2, "layers": [2, 6]}
    budget = CompressionConfig("fastv", 64, options=entries)
    entries["layer"] = 3
    assert budget.options == {"layer": 2, "layers": (2, 6)} and budget.options["layer"] == 2
    with pytest.raises(TypeError):
        budget.options["layer"] = 3  # type: ignore[index]
    assert not hasattr(budget.options, "update") and not hasattr(budget.options, "pop")
    copies = [copy.deepcopy(budget), pickle.loads(pickle.dumps(budget)), dataclasses.replace(budget)]
    copies.append(CompressionConfig.from_dict(json.loads(json.dumps(budget.to_dict()))))
    assert all(each == budget and hash(each) == hash(budget) and str(each) == str(budget) for each in copies)
    assert budget.to_dict()["options"] == {"layer": 2, "layers": [2, 6]} and type(budget.to_dict()["options"]) is dict
    assert {budget: 1}[CompressionConfig.parse("fastv:64,layers=2/6,layer=2")] == 1


@pytest.mark.parametrize("number", [10**30, 10**400, -(10**30)], ids=["31 digits", "401 digits", "negative"])
def test_a_number_that_cannot_be_read_back_is_refused(number):
    with pytest.raises(ValueError, match="none of a number"):
        CompressionConfig("a", 1, options={"x": number})
