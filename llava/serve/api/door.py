"""Who is let in, how much may come at a time, and how soon it must come: ASGI middleware around the application."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, MutableMapping
from typing import Any

from llava.serve.api.errors import ApiError
from llava.serve.api.limits import Limits
from llava.serve.asgi import Receive, Scope, Send, again, names_this_machine, read_body

_OPEN_TO_ALL = ("/health",)


class Door:
    """Lets requests in. What it refuses costs neither memory nor the model's time."""

    def __init__(
        self,
        app: Any,
        *,
        limits: Limits,
        key: str | None,
        local_only: bool,
        most_open: int,
        retry_after: Callable[[], int],
        on_reply: Callable[[int], None],
        on_open: Callable[[int], None],
    ) -> None:
        """Takes the application.

        Args:
            app: An ASGI application.
            limits: Bytes and seconds.
            key: What a client must know; None for no key.
            local_only: Whether only this machine's own names are answered to.
            most_open: Requests with a body that are read or answered at a time; others are told to come again.
            retry_after: In how many seconds.
            on_reply: Told the status of each reply.
            on_open: Told how many are open.
        """
        self._app = app
        self._limits = limits
        self._key = None if key is None else key.encode()
        self._local_only = local_only
        self._most_open = most_open
        self._retry_after = retry_after
        self._on_reply = on_reply
        self._on_open = on_open
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request in, or answers it with an error."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        reply = _Reply(send, self._limits.send_seconds, self._on_reply)
        try:
            self._check(scope)
            if scope["method"] == "POST":
                await self._let_in(scope, receive, reply)
            else:
                await self._app(scope, receive, reply)
        except ApiError as error:
            await reply.refuse(error)
        except TimeoutError:
            if not reply.is_late:
                raise

    def _check(self, scope: Scope) -> None:
        if self._local_only and not names_this_machine(scope):
            raise ApiError(
                403, "without a key this server answers to this machine's own names only", "permission_error"
            )
        if self._key is None or scope["path"] in _OPEN_TO_ALL:
            return
        kind, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._key):
            message = "the key is missing or wrong; send it as Authorization: Bearer KEY"
            raise ApiError(401, message, "authentication_error", code="invalid_api_key")

    async def _let_in(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        if self._open >= self._most_open:
            message = f"{self._open} requests wait already; try again later"
            raise ApiError(429, message, "rate_limit_error", code="queue_full", retry_after=self._retry_after())
        self._change(1)
        try:
            body = await self._read(scope, receive)
            await self._app(scope, again(body, receive), reply)
        finally:
            self._change(-1)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        limits = self._limits
        too_large = ApiError(413, f"the request has more than {limits.body_bytes} bytes", code="request_too_large")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > limits.body_bytes:
            raise too_large
        try:
            body = await read_body(receive, limits.body_bytes, limits.body_seconds)
        except TimeoutError:
            raise ApiError(408, f"the request did not come within {limits.body_seconds:g} seconds") from None
        if body is None:
            raise too_large
        return body

    def _change(self, by: int) -> None:
        self._open += by
        self._on_open(self._open)


class _Reply:
    """Sends a reply, as long as the client takes it.

    Attributes:
        is_late: Whether it did not.
    """

    def __init__(self, send: Send, seconds: float, on_reply: Callable[[int], None]) -> None:
        self._send, self._seconds, self._on_reply = send, seconds, on_reply
        self._has_begun = False
        self.is_late = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Sends a part."""
        if message["type"] == "http.response.start":
            self._has_begun = True
            self._on_reply(message["status"])
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(message)
        except TimeoutError:
            self.is_late = True
            raise

    async def refuse(self, error: ApiError) -> None:
        """Sends an error, unless something else was sent; the rest of the request is not read."""
        if self._has_begun:
            return
        body = error.to_json()
        headers = [*error.headers(), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        await self({"type": "http.response.start", "status": error.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})
