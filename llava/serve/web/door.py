"""What of the web server can be reached: the page, its queue, and nothing that opens a file or an address.

The page sends pictures as text, so none of gradio's routes for files is needed. Here they do not exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import MutableMapping
from typing import Any

from llava.serve.asgi import Receive, Scope, Send, again, names_this_machine, read_body

_READ = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(?:assets|static)/[\w./-]+|"
    r"/gradio_api/(?:queue/data|heartbeat/\w+|startup-events|info/?|app_id/?|theme\.css)"
)
_WRITTEN = re.compile(r"/gradio_api/(?:queue/join|cancel|reset)/?")
_ROOM_BESIDE_PICTURE = 2**18  # bytes of a request: question, settings, picks
_POLICY = (
    "default-src 'self'; img-src 'self' data:; font-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class Door:
    """ASGI middleware around gradio's application."""

    def __init__(self, app: Any, upload_bytes: int, local_only: bool) -> None:
        """Takes the application.

        Args:
            app: An ASGI application.
            upload_bytes: The largest file that a visitor may send.
            local_only: Whether only this machine's own names are answered to, so that no other site's page can have
                its name lead here.
        """
        self._app = app
        self._most = upload_bytes * 4 // 3 + _ROOM_BESIDE_PICTURE
        self._local_only = local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request in, or answers it with an error."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        if scope["method"] == "POST":
            body = await read_body(receive, self._most)
            refusal = (413, "the picture is too large") if body is None else _check_body(body)
            if refusal is not None or body is None:
                await _refuse(send, *(refusal or (413, "")))
                return
            receive = again(body, receive)
        await self._app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason, or None for a request of the page."""
        if self._local_only and not names_this_machine(scope):
            return 403, "this demo is for this machine only"
        routes = {"GET": _READ, "HEAD": _READ, "POST": _WRITTEN}.get(scope["method"])
        if routes is None or routes.fullmatch(scope["path"]) is None or ".." in scope["path"]:
            return 404, "not found"
        return None


def _check_body(body: bytes) -> tuple[int, str] | None:
    """Refuses what is no JSON, and JSON that names a file: gradio would open its path or fetch its address."""
    try:
        waiting: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return 400, "not JSON"
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("path"), str):
                return 400, "only an uploaded picture can be opened, no path and no address"
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return None


def _with_headers(send: Send) -> Send:
    async def send_on(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_HEADERS]
        await send(message)

    return send_on


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
