"""HTTP as uvicorn speaks it, where also what is no HTTP is told in JSON, and nobody is waited for without end."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from llava.serve.api.errors import ApiError

_HEAD_SECONDS = 30.0  # in which a connection must have sent the head of a request, or of a further one


class HttpProtocol(H11Protocol):
    """Uvicorn's own, but for clients that say nothing, or what cannot be read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        super().connection_made(transport)
        self._silence = self.loop.call_later(_HEAD_SECONDS, self._end_silence)

    def on_response_complete(self) -> None:
        """Called by uvicorn; its own bound to an idle connection ends with the first byte of a further request."""
        super().on_response_complete()
        self._silence.cancel()
        self._silence = self.loop.call_later(_HEAD_SECONDS, self._end_silence)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._silence.cancel()
        super().connection_lost(exc)

    def _end_silence(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # no request, or none since the last one
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn."""
        error = ApiError(400, msg)
        headers = [*error.headers(), (b"connection", b"close")]
        events: list[Any] = [
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=error.to_json()),
            h11.EndOfMessage(),
        ]
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
