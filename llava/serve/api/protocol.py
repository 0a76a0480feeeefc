"""HTTP as uvicorn speaks it, where also what is no HTTP is told in JSON."""

from __future__ import annotations

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from llava.serve.api.errors import ApiError


class HttpProtocol(H11Protocol):
    """Uvicorn's own, but for the reply to a request that cannot be read."""

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn."""
        error = ApiError(400, msg)
        headers = [*error.headers(), (b"connection", b"close")]
        events: list[h11.Event] = [
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=error.to_json()),
            h11.EndOfMessage(),
        ]
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
