"""Many clients at once, some of whom send garbage, hang or leave: no answer is lost, mixed or doubled."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest

from llava.inference import GenerationOptions, Inference
from llava.serve.api import protocol
from llava.serve.api.limits import Limits
from tests.serve.api.conftest import BUDGET, PATIENCE, Running, Start, asked, picture, until

ROOT = Path(__file__).parents[3]
CLIENTS = 64


def head(length: int, host: str = "127.0.0.1", more: str = "") -> bytes:
    lines = ["POST /v1/chat/completions HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {length}", more]).rstrip().encode() + b"\r\n\r\n"


def sent(running: Running, content: bytes) -> socket.socket:
    """A client of whom nothing more is to be expected than these bytes."""
    connection = socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)
    connection.sendall(content)
    return connection


def reply(connection: socket.socket) -> tuple[int, dict]:
    """Status and body of what a server sends before it closes the connection."""
    content = b""
    while part := connection.recv(1 << 16):
        content += part
    top, _, body = content.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(body)


def test_64_clients_beside_bad_ones_each_get_their_own_answer(start: Start, alone: Inference) -> None:
    running = start(Limits(new_tokens=600, body_seconds=PATIENCE))
    alone.model.set_compression(BUDGET)
    questions = [(f"Question {number}: what is in picture {number % 5}?", number % 5) for number in range(CLIENTS)]
    expected = [
        alone.ask_one(text, picture(place), options=GenerationOptions(3 + number % 6)).text
        for number, (text, place) in enumerate(questions)
    ]
    assert len(set(expected)) > CLIENTS // 2, "answers that could not be told apart would prove nothing"

    async def one(client: openai.AsyncOpenAI, number: int) -> list[str]:
        text, place = questions[number]
        body = asked(text, picture(place), max_tokens=3 + number % 6)
        if number % 3:
            said = await client.chat.completions.create(**body)
            return [choice.message.content or "" for choice in said.choices]
        stream = await client.chat.completions.create(**body, stream=True)
        return ["".join([chunk.choices[0].delta.content or "" async for chunk in stream])]

    async def leave() -> None:
        """Reads the first words of a long answer, and is gone."""
        body = asked("Say very much.", picture(1), max_tokens=600, stream=True)
        url = f"{running.url}/v1/chat/completions"
        async with (
            httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client,
            client.stream("POST", url, json=body) as response,
        ):
            async for _ in response.aiter_lines():
                return

    async def all_of_them() -> list[list[str]]:
        async with openai.AsyncOpenAI(
            base_url=f"{running.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE
        ) as client:
            gone = [asyncio.create_task(leave()) for _ in range(2)]
            answers = await asyncio.gather(*(one(client, number) for number in range(CLIENTS)))
            await asyncio.gather(*gone)
            return answers

    with (
        sent(running, b"\x16\x03\x01 what is this\r\n\r\n") as garbage,
        sent(running, head(9) + b'{"model":') as broken,
        sent(running, head(500) + b'{"mod') as hanging,
    ):
        answers = asyncio.run(all_of_them())
        status, told = reply(garbage)
        assert status == 400 and told["error"]["type"] == "invalid_request_error"
        broken.shutdown(socket.SHUT_WR)
        assert reply(broken)[0] == 400
        until(lambda: running.count("llava_open_requests") == 1)  # the one that hangs
        hanging.shutdown(socket.SHUT_WR)
    assert answers == [[text] for text in expected]
    until(lambda: running.count("llava_open_requests") == 0 and running.count("llava_waiting") == 0)
    assert running.count('llava_answers_total{reason="none"}') == 2, "those who left"
    assert running.count('llava_answers_total{reason="length"}') == CLIENTS
    assert running.count("llava_images_encoded_total") == 5, "the pictures of all clients, once each"


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_who_leaves_is_answered_no_further(streams: bool, start: Start) -> None:
    running = start(Limits(new_tokens=1500))
    body = json.dumps(asked("Say very much.", picture(), max_tokens=1500, stream=streams)).encode()
    with sent(running, head(len(body)) + body) as connection:
        if streams:
            assert connection.recv(100)
        else:
            until(lambda: running.count("llava_first_token_seconds_count") == 1)
    running.client.chat.completions.create(**asked("And now?", max_tokens=1))  # waits for what runs
    assert running.count('llava_answers_total{reason="none"}') == 1
    assert running.count('llava_answers_total{reason="length"}') == 1
    assert running.count("llava_computed_tokens_total") < 1500


def test_a_request_that_does_not_come_is_waited_for_so_long_and_no_longer(start: Start) -> None:
    running = start(Limits(body_seconds=0.3))
    with sent(running, head(500) + b'{"mod') as hanging:
        status, told = reply(hanging)
    assert status == 408 and "did not come within 0.3 seconds" in told["error"]["message"]
    assert running.count("llava_open_requests") == 0


def test_a_full_queue_asks_to_come_again(start: Start) -> None:
    running = start(Limits(waiting=1, body_seconds=PATIENCE), batch_size=1)
    with sent(running, head(500)), sent(running, head(500)):
        until(lambda: running.count("llava_open_requests") == 2)
        with pytest.raises(openai.RateLimitError, match="2 requests wait already") as caught:
            running.client.chat.completions.create(**asked("Me too."))
        assert int(caught.value.response.headers["retry-after"]) >= 1
    until(lambda: running.count("llava_open_requests") == 0)
    assert running.client.chat.completions.create(**asked("Me too.")).choices[0].message.content


def test_who_does_not_take_an_answer_is_let_go(start: Start) -> None:
    running = start(Limits(new_tokens=64, send_seconds=0.5))
    body = json.dumps(asked("Say much.", max_tokens=64, stream=True, n=8)).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    connection.connect(("127.0.0.1", running.port))
    with connection:
        connection.sendall(head(len(body)) + body)
        until(lambda: running.count('llava_answers_total{reason="length"}') == 8)
        until(lambda: running.count("llava_open_requests") == 0)


def test_closing_answers_what_was_asked(start: Start) -> None:
    running = start(Limits(new_tokens=64), batch_size=1)
    said: list[str] = []

    def ask(number: int) -> None:
        answer = running.client.chat.completions.create(**asked(f"Number {number}?", max_tokens=30))
        said.append(answer.choices[0].message.content or "")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: running.count("llava_first_token_seconds_count") >= 1)
    running.server.should_exit = True
    for thread in threads:
        thread.join(PATIENCE)
    assert len(said) == 3 and all(said)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/health", trust_env=False)


@pytest.mark.slow
def test_sigterm_ends_the_command_once_all_is_answered() -> None:
    words = ["-m", "llava.serve.api", "--model-path", "playground/tiny/model", "--port", "0", "--device", "cpu"]
    environment = os.environ | {"LLAVA_API_KEY": "secret"}
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    url = line.split(" is served at ")[1].split()[0]
    client = openai.OpenAI(base_url=url, api_key="secret", timeout=PATIENCE)
    stream = client.chat.completions.create(**asked("What?", picture(), model="model", stream=True))
    chunks = [next(iter(stream))]
    process.send_signal(signal.SIGTERM)
    chunks += list(stream)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    start = time.monotonic()
    assert process.wait(PATIENCE) == 0, time.monotonic() - start


def test_a_connection_that_says_nothing_is_closed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.5)
    running = start()
    with sent(running, b"") as silent, sent(running, b"POST /v1/chat/completions HTTP/1.1\r\nHos") as slow:
        assert silent.recv(100) == b"" and slow.recv(100) == b""
    with sent(running, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as further:
        assert b"200 OK" in further.recv(1000)
        further.sendall(b"GET /hea")
        while part := further.recv(1000):
            assert b"HTTP" not in part
    said = running.client.chat.completions.create(**asked("Hello.", max_tokens=1))
    assert said.choices[0].message.content is not None
