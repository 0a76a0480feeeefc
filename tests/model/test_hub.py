"""Checkpoints by their names on the Hub: only files that are read are fetched. A local server stands for the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = {"config.json", "tokenizer_config.json", "tokenizer.model"}
BIN_SHARDS = {"pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"}
SAFE_SHARDS = {
    "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
}
REPOSITORIES = {
    "sharded bin": (SMALL | BIN_SHARDS, SMALL | BIN_SHARDS),
    "one bin": (SMALL | {"pytorch_model.bin"}, SMALL | {"pytorch_model.bin"}),
    "both": (SMALL | BIN_SHARDS | SAFE_SHARDS, SMALL | SAFE_SHARDS | {"pytorch_model.bin.index.json"}),
    "projector bin": (SMALL | {"mm_projector.bin"}, SMALL | {"mm_projector.bin"}),
    "no models of other frameworks": (SMALL | {"one.msgpack", "pytorch_model.bin"}, SMALL | {"pytorch_model.bin"}),
}


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's protocol as a download needs."""

    def __init__(self, files: set[str], *args) -> None:
        self.files = files
        super().__init__(*args)

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/org/name/revision/"):
            siblings = [{"rfilename": name} for name in sorted(self.files)]
            self.answer(json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith("/api/models/org/name/tree/"):
            entries = [{"type": "file", "path": name, "size": 2, "oid": COMMIT} for name in sorted(self.files)]
            self.answer(json.dumps(entries).encode())
        elif path.startswith("/org/name/resolve/") and (name := path.rpartition("/")[2]) in self.files:
            self.answer(b"{}", {"ETag": f'"{hashlib.sha1(name.encode()).hexdigest()}"', "X-Repo-Commit": COMMIT})
        else:
            self.send_error(404)

    def answer(self, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.mark.parametrize(
    "kind",
    [
        "both",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in {**REPOSITORIES, "configs alone": 0}
            if kind != "both"
        ),
    ],
)
def test_the_files_that_are_fetched(kind, tmp_path: Path):
    published, wanted = REPOSITORIES.get(kind, (SMALL | SAFE_SHARDS, SMALL | {"model.safetensors.index.json"}))
    weights = kind != "configs alone"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, published))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = "from llava.model.checkpoints.files import resolve_checkpoint as resolve"
    program += f"; print(resolve('org/name', weights={weights}, revision='main'))"
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=120
        )
    finally:
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert {file.name for file in Path(done.stdout.strip()).iterdir()} == wanted
