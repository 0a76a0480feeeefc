"""The page as gradio is given it; what it does in a browser is in `tests/serve/browser`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llava.model.configuration import CompressionConfig
from llava.serve.web.choice import Choice, first_choice
from llava.serve.web.events import Demo

gradio = pytest.importorskip("gradio", reason="the demo's extra `web` is not installed")


@pytest.fixture
def page(demo: Demo) -> Any:
    from llava.serve.web.page import make_page

    return make_page(demo, Choice("visionzip", 49, 8), "Which digit is it?")


def test_it_begins_with_what_was_asked_for_and_the_towers_limits(page: Any) -> None:
    props = {each["props"].get("elem_id"): each["props"] for each in page.config["components"]}
    assert props["method-A"]["value"] == "visionzip" and props["method-B"]["value"] == "all tokens"
    assert (props["tokens-A"]["value"], props["tokens-A"]["maximum"], props["merged-A"]["value"]) == (49, 197, 8)
    assert props["question"]["value"] == "Which digit is it?" and props["question"]["max_length"] == 100


@pytest.mark.parametrize(
    ("asked", "method", "note"),
    [
        ("none", "all tokens", ""),
        ("random:30", "random", ""),
        ("visionzip:41+8,merge=mean", "visionzip", "begins with visionzip:41+8, not with"),
        ("downsample:20", "visionzip", "cannot show downsample"),
        ("fastv:20", "visionzip", "cannot show fastv"),
    ],
)
def test_it_begins_with_the_budget_of_the_command_line_or_says_why_not(
    demo: Demo, asked: str, method: str, note: str
) -> None:
    from llava.serve.web.page import make_page

    budget = CompressionConfig.parse(asked)
    first, told = first_choice(demo.methods, budget, all_tokens=budget is None)
    assert note in told and bool(told) == bool(note)
    [shown] = [
        e["props"] for e in make_page(demo, first).config["components"] if e["props"].get("elem_id") == "method-A"
    ]
    assert shown["value"] == method


def test_its_events_are_no_public_interface_and_nobody_asks_twice_at_once(page: Any) -> None:
    events = page.config["dependencies"]
    assert len(events) > 15 and {event["api_visibility"] for event in events if event["targets"][0][1] != "unload"} == {
        "private"
    }
    assert all(event["queue"] for event in events if event["targets"][0][1] != "unload")  # gradio's other route is shut


def test_its_own_files_name_no_other_machine() -> None:
    import llava.serve.web.page as module

    for file in Path(module.__file__).parent.iterdir():
        if file.suffix in (".js", ".css"):
            addresses = set(re.findall(r"https?://[^\s\"'`)]+|@import|url\(", file.read_text(encoding="utf-8")))
            assert addresses <= {"http://www.w3.org/2000/svg"}, file  # the name of SVG, which nobody fetches
