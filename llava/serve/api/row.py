"""One answer that somebody waits for: what is asked of the engine, and what the engine tells in return."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from llava.inference import Question
from llava.model.configuration import CompressionConfig
from llava.serve.api.errors import ApiError


@dataclass(frozen=True)
class Piece:
    """More of an answer."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The end of an answer.

    Attributes:
        text: All of it.
        rest: What no `Piece` has said.
        reason: `stop` or `length`.
        prompt_tokens: Length of the prompt, visual tokens included.
        visual_tokens: As in `Answer`.
        new_tokens: Of the answer.
    """

    text: str
    rest: str
    reason: str
    prompt_tokens: int
    visual_tokens: float
    new_tokens: int


Event: TypeAlias = Piece | Finished | ApiError


@dataclass(eq=False)
class Row:
    """One answer to be made.

    Attributes:
        question: What is asked.
        budget: Under which it is asked.
        tell: Called with what happens, from the engine's thread. Nothing follows a `Finished` or an error.
        max_new_tokens: Of the answer.
        temperature: 0 is greedy.
        top_p: As of `GenerationOptions`.
        seed: Of the draws.
        stops: Texts at which the answer ends.
        streams: Whether anybody wants pieces.
        since: When it was asked, by `time.monotonic`.
        has_begun: Whether it has a token; the engine's thread alone sets it.
        is_cancelled: Whether nobody waits any more; set by any thread.
        is_over: Whether its last event was told; the engine's thread alone sets it.
    """

    question: Question
    budget: CompressionConfig | None
    tell: Callable[[Event], None]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stops: tuple[str, ...] = ()
    streams: bool = False
    since: float = field(default_factory=time.monotonic)
    has_begun: bool = False
    is_cancelled: bool = False
    is_over: bool = False

    def end(self, event: Finished | ApiError) -> None:
        """Tells how it ended, once."""
        if not self.is_over:
            self.is_over = True
            self.tell(event)
