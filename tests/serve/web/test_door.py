"""The door: only what the page needs is reached; bodies are bounded, and none may name a file."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from llava.serve.web.door import Door

MOST = 3000


class Inside:
    """An application that says what reached it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive() if scope["method"] == "POST" else {}
        self.bodies.append(message.get("body", b""))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})


def request(
    method: str, path: str, body: bytes = b"", host: str = "127.0.0.1:7860", *, local_only: bool = True, parts: int = 1
) -> tuple[int, dict[bytes, bytes], Inside]:
    inside, answers = Inside(), []
    chunks = (
        [body[start::parts] for start in range(1)] if parts == 1 else [body[: len(body) // 2], body[len(body) // 2 :]]
    )
    messages = iter(
        {"type": "http.request", "body": chunk, "more_body": number < len(chunks) - 1}
        for number, chunk in enumerate(chunks)
    )

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        answers.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [(b"host", host.encode())]}
    asyncio.run(Door(inside, MOST, local_only)(scope, receive, send))
    return answers[0]["status"], dict(answers[0]["headers"]), inside


@pytest.mark.parametrize(
    "path", ["/", "/config", "/assets/index-a1.js", "/gradio_api/queue/data", "/gradio_api/heartbeat/a1"]
)
def test_the_page_is_let_through_with_a_policy(path: str) -> None:
    status, headers, _ = request("GET", path)
    assert status == 200 and b"default-src 'self'" in headers[b"content-security-policy"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/file=/etc/passwd"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/proxy=http://example.com/"),
        ("GET", "/assets/../../../etc/passwd"),
        ("GET", "/static/..%2f..%2fetc/passwd"),
        ("GET", "/monitoring"),
        ("GET", "/gradio_api/deep_link"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/call/ask"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("PUT", "/gradio_api/queue/join"),
        ("OPTIONS", "/"),
    ],
)
def test_nothing_else_exists(method: str, path: str) -> None:
    status, _, inside = request(method, path, b"{}")
    assert status == 404 and not inside.bodies


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:1", 200), ("evil.example", 403), ("127.0.0.1.evil.example", 403)]
)
def test_another_name_for_this_machine_is_refused_unless_shared(host: str, status: int) -> None:
    assert request("GET", "/", host=host)[0] == status
    assert request("GET", "/", host=host, local_only=False)[0] == 200


def test_a_body_arrives_whole_and_a_long_one_is_refused_whatever_its_header_says() -> None:
    body = json.dumps({"data": ["x" * 1000]}).encode()
    for parts in (1, 2):
        status, _, inside = request("POST", "/gradio_api/queue/join", body, parts=parts)
        assert (status, inside.bodies) == (200, [body])
    status, _, inside = request("POST", "/gradio_api/queue/join", b'"' + b"x" * (MOST * 4 // 3 + 2**18) + b'"')
    assert status == 413 and not inside.bodies


@pytest.mark.parametrize(
    "value",
    [
        {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
        {"path": "http://10.0.0.1/a.png", "meta": {"_type": "gradio.FileData"}},
        [[{"image": {"path": "/etc/passwd"}}]],
    ],
)
def test_a_body_that_names_a_file_is_refused_however_it_is_written(value: Any) -> None:
    body = json.dumps({"data": [value], "event_data": None}).replace("path", "\\u0070ath").encode()
    assert b"path" not in body
    status, _, inside = request("POST", "/gradio_api/queue/join", body)
    assert status == 400 and not inside.bodies


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    assert request("POST", "/gradio_api/queue/join", body)[0] == 400
