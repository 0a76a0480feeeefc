"""What the doors of both servers do with a request before it is let in: its body within bounds, its host looked at."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_LOCAL_HOSTS = {"127.0.0.1", "localhost", "[::1]"}


def names_this_machine(scope: Scope) -> bool:
    """Whether a request asks for this machine by its own names, and not by one that another site has led here."""
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
    return re.sub(r":\d+$", "", host) in _LOCAL_HOSTS


async def read_body(receive: Receive, most: int, seconds: float | None = None) -> bytes | None:
    """The body of a request; None if it is too long, whatever its header says.

    Args:
        receive: Of the request.
        most: Bytes.
        seconds: In which all of it must come; None for no bound.

    Raises:
        TimeoutError: It does not.
    """
    body = bytearray()
    async with asyncio.timeout(seconds):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return bytes(body)
            body += message.get("body", b"")
            if len(body) > most:
                return None
            if not message.get("more_body"):
                return bytes(body)


def again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that has been read once more, then what comes after it."""
    given = False

    async def receive_again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
