"""A local HTTP server that behaves as badly as it is told to."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Resource:
    """What lies at a path, and how it is served.

    Attributes:
        statuses: Answered with first, one a request.
        cuts: After so many bytes of the body the connection is cut, one a request.
        claimed: Content-Length and total, if they are lies.
        seconds_a_chunk: Slows the body down, in chunks of 64 KiB.
        chunked: The length is not told; the body comes in HTTP's chunks.
    """

    body: bytes
    ranges: bool = True
    etag: str | None = ""
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    claimed: int | None = None
    seconds_a_chunk: float = 0.0
    chunked: bool = False

    def __post_init__(self) -> None:
        if self.etag == "":
            self.etag = f'"{hashlib.md5(self.body).hexdigest()}"'


class Server:
    def __init__(self, address: tuple[str, int]) -> None:
        self.url = f"http://{address[0]}:{address[1]}"
        self.resources: dict[str, Resource] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []

    def put(self, path: str, body: bytes, **behaviour) -> str:
        self.resources[path] = Resource(body, **behaviour)
        return f"{self.url}/{path}"

    def gets(self, path: str) -> list[dict[str, str]]:
        """Headers of the GET requests for a path."""
        return [headers for method, asked, headers in self.requests if (method, asked) == ("GET", path)]


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def log_message(self, *args):
        pass

    def answer(self, with_body: bool) -> None:
        server, path = self.server.state, self.path.lstrip("/")
        server.requests.append((self.command, path, dict(self.headers)))
        resource = server.resources.get(path)
        if resource is None:
            self.send_error(404)
            return
        if with_body and resource.statuses:
            self.send_error(resource.statuses.pop(0))
            return
        total = len(resource.body) if resource.claimed is None else resource.claimed
        start = self.first_byte(resource)
        if start is not None and start >= len(resource.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(resource.body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if resource.etag:
            self.send_header("ETag", resource.etag)
        if resource.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(total - (start or 0)))
        self.end_headers()
        if with_body:
            self.send_body(resource, resource.body[start or 0 :])

    def first_byte(self, resource: Resource) -> int | None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        unchanged = self.headers.get("If-Range") in (None, resource.etag)
        return int(asked[1]) if asked and resource.ranges and unchanged else None

    def send_body(self, resource: Resource, body: bytes) -> None:
        whole = len(body)
        if resource.cuts:
            body = body[: resource.cuts.pop(0)]
        for begin in range(0, len(body), 1 << 16):
            part = body[begin : begin + (1 << 16)]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if resource.chunked else part)
            if resource.seconds_a_chunk:
                time.sleep(resource.seconds_a_chunk)
        if resource.chunked and len(body) == whole:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def handle(self):
        with suppress(BrokenPipeError, ConnectionResetError):  # the client was killed
            super().handle()


@contextmanager
def serving():
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    http.state = server = Server(http.server_address)
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
