"""One answer as it comes: a model that generates in a thread, read by a page that may go away at any time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from llava.inference import GenerationOptions
from llava.serve.chat import Chat

_HEART_BEAT = 0.25  # seconds at most between two looks at an answer: so soon a page that is gone is noticed


@dataclass(frozen=True)
class Answering:
    """An answer so far, and its cost.

    Attributes:
        text: What has been said.
        visual_tokens: That the language model was given.
        first_seconds: From the question to the first token: choice of tokens, projector and prefill; None before.
        seconds: From the question until now.
        error: Why there is no answer, or None.
        is_finished: Whether nothing more comes.
    """

    text: str = ""
    visual_tokens: int = 0
    first_seconds: float | None = None
    seconds: float = 0.0
    error: str | None = None
    is_finished: bool = False


class _Turn:
    """A turn of a conversation in a thread of its own."""

    def __init__(self, chat: Chat, options: GenerationOptions, model_lock: threading.Lock, seconds: float) -> None:
        self.pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.stop = threading.Event()
        self.start = time.perf_counter()
        self.first: float | None = None
        self.error: str | None = None
        self.answer = ""
        self._chat, self._options, self._lock, self._seconds = chat, options, model_lock, seconds

    def run(self, question: str) -> None:
        """The thread: one generation at a time in the whole process."""
        try:
            with self._lock:
                self.start = time.perf_counter()
                self.answer = self._chat.say(
                    question, options=self._options, on_text=self.pieces.put, goes_on=self._goes_on
                )
        except Exception as error:  # told to the visitor; the thread has nobody else to raise it to
            self.error = str(error) if isinstance(error, ValueError) else f"the model fails: {error!r}"
        finally:
            self.pieces.put(None)

    def _goes_on(self) -> bool:
        elapsed = time.perf_counter() - self.start
        if self.first is None:
            self.first = elapsed
        return not self.stop.is_set() and elapsed < self._seconds


def stream_answer(
    chat: Chat,
    question: str,
    options: GenerationOptions,
    *,
    model_lock: threading.Lock,
    stop: threading.Event,
    seconds: float,
) -> Generator[Answering, None, None]:
    """Asks, and gives the answer as it grows.

    Closing the iterator ends the generation at the next token; so does `stop`. A stopped answer stays as it is.

    Args:
        chat: The conversation.
        question: The visitor's words.
        options: Of generation.
        model_lock: Held while the model generates.
        stop: Set by another thread to end it.
        seconds: After which it ends by itself.

    Yields:
        The answer so far, several times a second, the last one finished.
    """
    turn = _Turn(chat, options, model_lock, seconds)
    thread = threading.Thread(target=turn.run, args=(question,), daemon=True, name="answer")
    thread.start()
    said = Answering()
    try:
        while True:
            try:
                piece = turn.pieces.get(timeout=_HEART_BEAT)
            except queue.Empty:
                piece = ""
            if stop.is_set():
                turn.stop.set()
            if piece is None:
                break
            said = replace(said, text=said.text + piece, **_costs(turn, chat))
            yield said
    finally:
        turn.stop.set()
        thread.join()
    yield Answering(turn.answer, error=turn.error, is_finished=True, **_costs(turn, chat))


def _costs(turn: _Turn, chat: Chat) -> dict[str, Any]:
    seconds = time.perf_counter() - turn.start
    return {"visual_tokens": chat.visual_tokens, "first_seconds": turn.first, "seconds": seconds}
