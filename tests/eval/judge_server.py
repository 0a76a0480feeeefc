"""A local endpoint that speaks chat/completions, and misbehaves as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SERVED_MODEL = "judge-2026-01-01"


@dataclass
class Misbehaviour:
    """What a request gets in the place of an answer.

    Attributes:
        status: HTTP status.
        headers: Headers beside it.
        body: The body as it is.
        seconds: Silence before anything is sent.
        hang_up: The connection is closed without an answer.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    hang_up: bool = False


class JudgeServer:
    """State of the endpoint.

    Attributes:
        reply: Makes the judge's words of a question.
        troubles: Taken one a request, from the front, before anything is answered.
        requests: (path, headers, body) of each request, and when it came.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.url = f"http://{address[0]}:{address[1]}/v1"
        self.reply: Callable[[str], Any] = lambda question: "0.5"
        self.troubles: list[Misbehaviour] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.times: list[float] = []
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        state: JudgeServer = self.server.state  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            state.requests.append((self.path, dict(self.headers), body))
            state.times.append(time.monotonic())
            trouble = state.troubles.pop(0) if state.troubles else None
        if trouble is None:
            message = {"role": "assistant", "content": state.reply(body["messages"][-1]["content"])}
            answer = {"model": SERVED_MODEL, "choices": [{"index": 0, "message": message}]}
            trouble = Misbehaviour(body=json.dumps(answer).encode())
        time.sleep(trouble.seconds)
        if trouble.hang_up:
            self.close_connection = True
            return
        self.send_response(trouble.status)
        for name, value in trouble.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(trouble.body)))
        self.end_headers()
        self.wfile.write(trouble.body)

    def log_message(self, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has given up
            super().handle()


@contextmanager
def judging() -> Iterator[JudgeServer]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    http.state = server = JudgeServer(http.server_address[:2])  # type: ignore[attr-defined,arg-type]
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
