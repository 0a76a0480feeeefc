"""A batch that fails: only the row that is to blame gets no answer, and the server goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llava.inference import Answer, GenerationOptions, Inference, Question
from tests.serve.api.conftest import BUDGET, Running, Start, asked, picture, until

BUSY = threading.Event()  # while the first batch is held


class Panic(BaseException):
    """As what a library in Rust raises: no `Exception`."""


@pytest.fixture
def running(start: Start, monkeypatch: pytest.MonkeyPatch) -> Running:
    """A server whose model fails at a batch with the word `poison`."""
    running = start()
    ask: Callable[..., Any] = running.service.engine.inference.ask

    def failing(questions: Sequence[Question], **options: Any) -> Any:
        if questions[0].text == "Say much.":
            BUSY.set()
            until(lambda: not BUSY.is_set())
        if any("poison" in question.text for question in questions):
            raise Panic("a library has failed")
        return ask(questions, **options)

    monkeypatch.setattr(running.service.engine.inference, "ask", failing)
    return running


def test_neighbours_of_a_row_that_fails_are_answered(running: Running, alone: Inference) -> None:
    alone.model.set_compression(BUDGET)
    words = ["What is it?", "poison", "And where?", "Why?"]
    with ThreadPoolExecutor(5) as clients:
        first = clients.submit(running.post, asked("Say much."))
        until(lambda: BUSY.is_set())
        others = [clients.submit(running.post, asked(text, picture())) for text in words]
        until(lambda: running.count("llava_waiting") == len(words))  # so that they are one batch
        BUSY.clear()
        replies = [other.result() for other in others]
        assert first.result().status_code == 200
    for text, reply in zip(words, replies, strict=True):
        if text == "poison":
            assert reply.status_code == 500 and reply.json()["error"]["message"] == "the model failed: Panic"
        else:
            expected = alone.ask_one(text, picture(), options=GenerationOptions(8)).text
            assert reply.json()["choices"][0]["message"]["content"] == expected
    assert running.count("llava_batch_rows_sum") == 5 and running.count("llava_batch_rows_count") == 2
    assert running.post(asked("And now?")).status_code == 200


def test_a_question_without_words_fails_alone_where_a_method_chooses_by_words(alone: Inference) -> None:
    alone.model.set_compression("mmtok:64")
    questions = [Question("What?", (picture(),)), Question("", (picture(1),))]
    said = alone.ask(questions, skip_errors=True, options=GenerationOptions(4))
    answers: dict[int, Answer] = {answer.index: answer for answer in said}
    assert answers[0].error is None and answers[0].text
    assert answers[1].error == "the question '' has no word to choose visual tokens by"
