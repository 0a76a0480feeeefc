"""Clients of a server: how long each waits for its first token, for each further one, and for all of them."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Waited:
    """One request.

    Attributes:
        first: Seconds until something of the answer was there.
        whole: Seconds until all of it was.
        tokens: New tokens.
    """

    first: float
    whole: float
    tokens: int

    @property
    def token_ms(self) -> float:
        """Milliseconds of each token behind the first."""
        return 1000 * (self.whole - self.first) / max(1, self.tokens - 1)


@dataclass(frozen=True)
class Load:
    """What all clients of one run have seen.

    Attributes:
        waited: Of each request.
        seconds: From the first request to the last answer.
    """

    waited: Sequence[Waited]
    seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.waited) / self.seconds

    def first_ms(self, share: float) -> float:
        """Milliseconds to the first token that this share of the requests did not exceed."""
        ordered = sorted(each.first for each in self.waited)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def token_ms(self) -> float:
        """Median of the requests' milliseconds a token."""
        return statistics.median(each.token_ms for each in self.waited)

    @property
    def share_of_first(self) -> float:
        """Median share of a request's time that was over at its first token."""
        return statistics.median(each.first / each.whole for each in self.waited)


def bodies(pictures: Sequence[Path], model: str, new_tokens: int) -> Iterator[bytes]:
    """Requests without end, each about the next picture."""
    urls = [f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}" for file in pictures]
    for number in itertools.count():
        image = {"type": "image_url", "image_url": {"url": urls[number % len(urls)]}}
        text = {"type": "text", "text": f"Question {number}: what is shown here?"}
        messages = [{"role": "user", "content": [text, image]}]
        asked = {"model": model, "messages": messages, "max_tokens": new_tokens, "stream": True}
        yield json.dumps(asked | {"stream_options": {"include_usage": True}}).encode()


async def ask(port: int, body: bytes) -> Waited:
    """Sends one request over a connection of its own, and reads its stream.

    Raises:
        RuntimeError: It was not answered.
    """
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    first, tokens, status = 0.0, 0, (await reader.readline()).split()
    if status[1:2] != [b"200"]:
        raise RuntimeError((await reader.read()).decode(errors="replace"))
    async for line in reader:
        if not first and line.startswith(b"data: "):
            first = time.perf_counter() - start
        if b'"completion_tokens"' in line:
            tokens = json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"]
    writer.close()
    if not tokens:
        raise RuntimeError("the stream ended before the answer did")
    return Waited(first, time.perf_counter() - start, tokens)


async def closed_loop(port: int, requests: Iterator[bytes], clients: int, count: int) -> Load:
    """Each client asks again as soon as it was answered, until so many requests were sent."""
    left, waited = iter(range(count)), []

    async def client() -> None:
        for _ in left:
            waited.append(await ask(port, next(requests)))

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Load(waited, time.perf_counter() - start)


async def open_loop(port: int, requests: Iterator[bytes], rate: float, count: int) -> Load:
    """Requests come at random times, so many a second on average, whether others were answered or not."""
    draw, tasks = random.Random(0), []
    start = time.perf_counter()
    for _ in range(count):
        tasks.append(asyncio.create_task(ask(port, next(requests))))
        await asyncio.sleep(draw.expovariate(rate))
    return Load(await asyncio.gather(*tasks), time.perf_counter() - start)
