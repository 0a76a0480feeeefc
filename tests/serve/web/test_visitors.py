"""Visitors: apart from each other, bounded, and each budget's answer is what the model answers under it."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
import torch

from llava.inference import GenerationOptions, Inference
from llava.serve.chat import Chat
from llava.serve.web.answering import stream_answer
from llava.serve.web.choice import read_picks
from llava.serve.web.events import Demo, Shown
from llava.serve.web.methods import ALL, HAND, methods_of, range_of
from tests.serve.web.conftest import LIMITS, SCENE, sent

KEPT = "Kept patches"
WHERE = "Which digit is in the northwest?"


def last(answers: Iterator[Shown]) -> Shown:
    *_, shown = answers
    return shown


def begin(demo: Demo, session: str, scene: dict[str, str], *methods: str) -> dict:
    panes = {name: sent(method) for name, method in zip("AB", methods, strict=False)}
    assert demo.upload(session, scene, panes, KEPT).notice == ""
    return panes


@pytest.fixture
def tower_runs(tiny: Inference) -> Iterator[list[int]]:
    runs: list[int] = []
    handle = tiny.model.model.vision_tower.embeddings.register_forward_hook(lambda *_: runs.append(1))
    yield runs
    handle.remove()


def test_each_answer_is_the_models_own_and_the_tower_runs_once(
    demo: Demo, scene: dict[str, str], tower_runs: list[int]
) -> None:
    panes = begin(demo, "one", scene, "visionzip", "random")
    for budget, first in (
        ("visionzip:17+3", sent("visionzip")),
        ("none", sent(ALL)),
        ("divprune:20", sent("divprune")),
    ):
        panes["A"] = first
        shown = last(demo.ask("one", WHERE, panes))
        demo.redraw("one", panes, "Attention", "")
        assert len(tower_runs) == 1 and demo.inference.model.compression is None
        demo.restart("one")
        try:
            demo.inference.model.set_compression(budget)
            expected = demo.inference.ask_one(WHERE, SCENE, options=GenerationOptions(16))
        finally:
            demo.inference.model.set_compression(None)
        tower_runs.pop()
        assert expected.text in shown.talks["A"] and f"<b>{expected.visual_tokens} (" in shown.talks["A"]


def test_what_is_drawn_is_what_is_kept(demo: Demo, scene: dict[str, str]) -> None:
    demo.upload("one", scene, {"A": sent("visionzip")}, KEPT)
    drawing = demo.redraw("one", {"A": sent("visionzip")}, KEPT, "").stages["A"]
    [kept] = drawing["kept"]
    assert (drawing["rows"], drawing["columns"], len(kept["at"]), drawing["hasCls"]) == (14, 14, 20, True)
    assert kept["at"][0] == -1 and sum(kept["merged"]) == 3 and -1 not in kept["holder"]
    assert all(kept["holder"][at] == token for token, at in enumerate(kept["at"]) if at >= 0)
    assert [kept["holder"].count(token) for token in range(1, 20)] == kept["sizes"][1:]
    [tile] = drawing["tiles"]
    assert (
        tile["picture"].startswith("data:image/png;base64,") and max(tile["heat"]) == 255 and len(tile["heat"]) == 196
    )
    assert "kept" not in demo.redraw("one", {"A": sent(ALL)}, KEPT, "").stages["A"]
    reader = demo.redraw("one", {"A": sent("mmtok")}, KEPT, "").stages["A"]
    assert "kept" not in reader and "chooses by the question" in reader["note"]
    assert "kept" in demo.redraw("one", {"A": sent("mmtok")}, KEPT, WHERE).stages["A"]


def test_picks_are_asked_with_exactly_and_begin_from_a_method(demo: Demo, scene: dict[str, str]) -> None:
    panes = begin(demo, "one", scene, HAND, "visionzip")
    assert "no patch is picked" in last(demo.ask("one", WHERE, panes)).notice
    picks = demo.begin_picks("one", sent("visionzip", 20, 0), "")
    assert len(picks[0]) == 20 and picks[0][0] == -1
    panes = {"A": sent(HAND, picks=picks), "B": sent("visionzip", 20, 0)}
    shown = last(demo.ask("one", WHERE, panes))
    assert "The same answer." in shown.talks["A"] and "<b>20 (10% of 196)</b>" in shown.talks["A"]
    few = last(demo.ask("one", WHERE, {"A": sent(HAND, picks=[[0, 5, 7]])}))
    assert "<b>3 (2% of 196)</b>" in few.talks["A"]
    drawing = demo.redraw("one", {"A": sent(HAND, picks=[[5, 0]])}, KEPT, "").stages["A"]
    assert drawing["byHand"] and "kept" not in drawing


@pytest.mark.parametrize(
    "sent_picks", [[[0], [1]], "all", [[196]], [[-2]], [["0"]], [[True]], [[0.5]], [3], [[0] * 300]]
)
def test_picks_that_no_page_sends_are_refused(sent_picks: object) -> None:
    with pytest.raises(ValueError, match="pick"):
        read_picks(sent_picks, 1, 196)


def test_visitors_do_not_see_each_other_and_are_forgotten(demo: Demo, scene: dict[str, str]) -> None:
    panes = begin(demo, "one", scene, "visionzip")
    last(demo.ask("one", WHERE, panes))
    assert "picture first" in last(demo.ask("two", WHERE, panes)).notice
    assert demo.redraw("two", panes, KEPT, "").stages is None
    begin(demo, "two", scene, "visionzip")
    assert "hint" in demo.restart("two").talks["A"]
    last(demo.ask("two", WHERE, panes))  # the cache of a conversation is one visitor's; the other's is computed anew
    assert [demo.visitors.of(name).panes["A"].chat._cache is None for name in ("one", "two")] == [True, False]
    assert WHERE in last(demo.ask("one", "And in the southeast?", panes)).talks["A"]
    begin(demo, "three", scene, "visionzip")
    assert len(demo.visitors) == LIMITS.visitors == 2  # the one who was away longest is gone
    assert "picture first" in last(demo.ask("two", WHERE, panes)).notice
    for session in ("one", "two", "three", "never there"):
        demo.leave(session)
    assert len(demo.visitors) == 0
    with pytest.raises(ValueError, match="no page"):
        demo.visitors.of(None)


def test_bounds_are_told_and_nothing_is_asked(demo: Demo, scene: dict[str, str]) -> None:
    panes = begin(demo, "one", scene, "visionzip")
    for question, reason in (
        ("", "Write a question"),
        (None, "Write a question"),
        ("x" * 101, "100 characters"),
        ("\ud800", "Unicode"),
    ):
        assert reason in last(demo.ask("one", question, panes)).notice
    for wrong, reason in (
        (sent("nothing"), "no method"),
        (sent("visionzip", 500), "outside 1..197"),
        (sent("visionzip", 0), "at least 1"),
        (sent("visionzip", float("nan")), "no number"),
        (sent("visionzip", "9"), "no number"),
        (sent("downsample"), "no method"),
        (sent("fastv"), "no method"),
        (sent(["visionzip"]), "no method"),
    ):
        assert reason in last(demo.ask("one", WHERE, {"A": wrong})).notice, wrong
        assert reason in demo.redraw("one", {"A": wrong}, KEPT, "").notice
    for data in (
        None,
        {},
        {"example": 7},
        {"example": True},
        {"data": str(SCENE)},
        {"data": "data:text/plain;base64,aa"},
    ):
        assert demo.upload("one", data, panes, KEPT).notice, data
    for _ in range(LIMITS.turns):
        assert last(demo.ask("one", WHERE, panes)).notice == ""
    assert "3 turns at most" in last(demo.ask("one", WHERE, panes)).notice
    demo.restart("one")
    assert last(demo.ask("one", WHERE, panes)).notice == ""
    assert demo.upload("one", {"example": 0}, panes, KEPT).notice == ""


def test_methods_and_ranges_follow_the_tower(tiny: Inference) -> None:
    methods = methods_of(tiny.model)
    assert methods[:2] == [ALL, "visionzip"] and methods[-1] == HAND and "downsample" not in methods
    assert {"pool", "tome", "divprune", "random", "mmtok"} <= set(methods)
    assert range_of(tiny.model, "visionzip").most == 197 and range_of(tiny.model, "random").most == 196
    assert (range_of(tiny.model, "visionzip", 20).most_merged, range_of(tiny.model, "random").most_merged) == (19, 0)


def test_a_closed_page_ends_the_answer_at_the_next_token(oracle_dir, scene: dict[str, str]) -> None:
    """The thread is gone when the iterator has been closed, and the model can be asked again."""
    slow = Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu", compression="visionzip:54+10")
    steps: list[None] = []
    hook = slow.model.model.language_model.norm.register_forward_hook(lambda *_: steps.append(time.sleep(0.02)))
    lock, options = threading.Lock(), GenerationOptions(400)
    for how in ("close", "stop", "seconds"):
        steps.clear()
        stop, chat = threading.Event(), Chat(slow)
        seconds = 0.2 if how == "seconds" else 60
        answers = stream_answer(chat, "Hello", options, model_lock=lock, stop=stop, seconds=seconds)
        first = next(answers)
        if how == "close":
            answers.close()
        elif how == "stop":
            stop.set()
        said = [first, *answers][-1]
        count = len(steps)
        time.sleep(0.2)
        assert count == len(steps) < 390 and not lock.locked(), how
        assert "answer" not in [thread.name for thread in threading.enumerate()]
        if how != "close":
            assert said.is_finished and said.error is None and chat.messages[0][1] == said.text, (how, said)
    hook.remove()


def test_an_answer_that_is_cut_short_keeps_its_place(demo: Demo, scene: dict[str, str]) -> None:
    """Each answer stands under its own question, also behind one whose connection broke."""
    panes = begin(demo, "one", scene, ALL)
    answers = demo.ask("one", WHERE, panes)
    next(answers)
    answers.close()
    talk = last(demo.ask("one", "Is there a digit?", panes)).talks["A"]
    assert talk.count('class="said user"') == talk.count('class="said model"') == 2
    chat = demo.visitors.of("one").panes["A"].chat
    assert [answer.text for answer in demo.visitors.of("one").panes["A"].costs] == [said for _, said in chat.messages]


def test_nothing_is_left_of_a_visitor_who_is_gone(demo: Demo, scene: dict[str, str]) -> None:
    for leave in (lambda: demo.leave("one"), lambda: [demo.visitors.of(name) for name in ("two", "three")]):
        panes = begin(demo, "one", scene, ALL)
        last(demo.ask("one", WHERE, panes))
        known = demo.visitors.of("one")
        kept = [weakref.ref(known.picture), weakref.ref(known.panes["A"].chat)]
        del known
        leave()
        gc.collect()
        assert [each() for each in kept] == [None, None]


def test_a_failure_of_the_model_is_told(tiny: Inference) -> None:
    chat = Chat(tiny)
    chat._generate = lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory"))
    *_, said = stream_answer(
        chat, "Hello", GenerationOptions(2), model_lock=threading.Lock(), stop=threading.Event(), seconds=9
    )
    assert said.is_finished and "no memory" in said.error and chat.messages == []
