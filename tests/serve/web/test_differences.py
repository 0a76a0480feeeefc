"""Differences between two answers, and everything that was written stays text."""

from __future__ import annotations

import re
from html import unescape

from hypothesis import given, settings
from hypothesis import strategies as st

from llava.serve.web.answering import Answering
from llava.serve.web.differences import mark_differences
from llava.serve.web.talk import show_talk

DONE = {"visual_tokens": 20, "first_seconds": 0.034, "seconds": 1.25, "is_finished": True}


def test_words_that_differ_are_marked_on_both_sides() -> None:
    assert mark_differences("a red seven", "a blue seven") == ("a <mark>red</mark> seven", "a <mark>blue</mark> seven")
    assert mark_differences("yes", "yes") == ("yes", "yes")
    assert mark_differences("", "no") == ("", "<mark>no</mark>")
    assert mark_differences("two  dogs", "two dogs") == ("two  dogs", "two dogs")


@settings(deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_marking_changes_no_text(first: str, second: str) -> None:
    for text, marked in zip((first, second), mark_differences(first, second), strict=True):
        assert unescape(re.sub(r"</?mark>", "", marked)) == unescape(text.replace("&", "&amp;").replace("<", "&lt;"))


def test_a_talk_holds_no_markup_of_visitors_or_models() -> None:
    evil = '<img src=x onerror="a()">![](http://evil.example/a.png)'
    shown = show_talk([(evil, Answering(evil, **DONE)), ("why", Answering(error=evil, is_finished=True))], 196)
    assert "<img" not in shown and shown.count("&lt;img") == 3
    assert "20 (10% of 196)" in shown and "34 ms" in shown and "1.2 s" in shown


def test_the_verdict_is_about_the_same_question_and_whole_answers() -> None:
    one, other = [("q", Answering("a red seven", **DONE))], [("q", Answering("a blue seven", **DONE))]
    assert "<mark>red</mark>" in show_talk(one, 196, other) and "The answers differ." in show_talk(one, 196, other)
    assert "The same answer." in show_talk(one, 196, one)
    growing = [("q", Answering("a blue"))]
    for beside in (None, growing, [("p", other[0][1])], [("q", Answering(error="no", is_finished=True))]):
        assert "verdict" not in show_talk(one, 196, beside)
