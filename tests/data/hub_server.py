"""A dataset's repository served as the Hub does, as far as `datasets` and `huggingface_hub` ask."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

NAME = "owner/name"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def entry(file: Path, root: Path) -> dict[str, Any]:
    """A file or folder of a listing."""
    name, size = str(file.relative_to(root)), file.stat().st_size
    oid = hashlib.sha1(name.encode()).hexdigest()
    return {"type": "directory" if file.is_dir() else "file", "path": name, "oid": oid, "size": size}


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, with_body: bool) -> None:
        url, root = urlsplit(self.path), self.server.root
        path = unquote(url.path)
        kind, _, rest = path.partition(f"{NAME}/")
        action, _, rest = rest.partition("/")
        _, _, below = rest.partition("/")  # behind the revision
        if kind == "/datasets/" and action == "resolve" and (root / below).is_file():
            self.server.sent.append(below)
            self.send(200, (root / below).read_bytes(), with_body)
        elif kind == "/api/datasets/" and action == "tree":
            found = (root / below).rglob("*") if "recursive=true" in url.query else (root / below).iterdir()
            self.send(200, json.dumps([entry(file, root) for file in sorted(found)]).encode(), with_body)
        elif path == f"/api/datasets/{NAME}" or (kind == "/api/datasets/" and action == "revision"):
            about = {"id": NAME, "sha": COMMIT, "private": False, "gated": False, "disabled": False, "tags": []}
            self.send(200, json.dumps(about | {"downloads": 0, "likes": 0, "siblings": []}).encode(), with_body)
        else:
            self.send(404, b"", with_body, {"X-Error-Code": "EntryNotFound" if NAME in path else "RepoNotFound"})

    def send(self, status: int, content: bytes, with_body: bool, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        headers = {"Content-Length": str(len(content)), "ETag": etag, "X-Repo-Commit": COMMIT, **(more or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)


@contextmanager
def serving_dataset(root: Path) -> Iterator[Any]:
    """The server; `url`, and in `sent` the files that were asked for."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.root, server.sent, server.url = root, [], f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
