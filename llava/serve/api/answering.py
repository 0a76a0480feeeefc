"""The answers to one request, in the event loop: what the engine's thread tells arrives here in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from llava.inference import Question
from llava.model.configuration import CompressionConfig
from llava.serve.api.errors import ApiError
from llava.serve.api.limits import Limits
from llava.serve.api.request import ChatRequest
from llava.serve.api.row import Event, Finished, Piece, Row

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Answering:
    """All answers to one request.

    Attributes:
        rows: One for each answer.
    """

    def __init__(
        self,
        request: ChatRequest,
        question: Question,
        budget: CompressionConfig | None,
        limits: Limits,
        temperature: float,
        on_end: Callable[[Row, Finished | None], None],
    ) -> None:
        """Makes the rows; the engine is to be given them.

        Args:
            request: What the client asks for; checked.
            question: Made of it.
            budget: Named in it.
            limits: Of the server.
            temperature: Where the client names none.
            on_end: Called when an answer has ended, with nothing where there is none.
        """
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self.rows = [
            Row(
                question,
                budget,
                self._teller(place),
                request.new_tokens(limits),
                temperature=temperature if request.temperature is None else request.temperature,
                top_p=1.0 if request.top_p is None else request.top_p,
                stops=request.stops,
                streams=bool(request.stream),
                seed=random.getrandbits(63) if request.seed is None else (request.seed + place) % 2**63,
            )
            for place in range(request.n or 1)
        ]

    async def events(self) -> AsyncIterator[tuple[int, Piece | Finished]]:
        """What happens, with the number of the answer, until all have ended.

        Raises:
            ApiError: One of them cannot be made; the others are ended.
        """
        left = len(self.rows)
        while left:
            place, event = await self._events.get()
            if isinstance(event, ApiError):
                self.cancel()
                raise event
            if isinstance(event, Finished):
                left -= 1
            yield place, event

    def cancel(self) -> None:
        """Nobody waits any more: each row ends at its next token."""
        for row in self.rows:
            if not row.is_over and not row.is_cancelled:
                row.is_cancelled = True
                self._on_end(row, None)

    async def cancel_when_gone(self, receive: Receive) -> None:
        """Waits until the client has left, and ends its rows.

        Args:
            receive: Of the request, whose body has been read.
        """
        while (await receive())["type"] != "http.disconnect":
            pass
        self.cancel()
        self._events.put_nowait((0, ApiError(499, "the client has left", "server_error")))

    def _teller(self, place: int) -> Callable[[Event], None]:
        def tell(event: Event) -> None:
            row = self.rows[place]
            if not isinstance(event, Piece) and not row.is_cancelled:
                self._on_end(row, event if isinstance(event, Finished) else None)
            try:
                self._loop.call_soon_threadsafe(self._events.put_nowait, (place, event))
            except RuntimeError:  # the loop has ended before the engine
                row.is_cancelled = True

        return tell
