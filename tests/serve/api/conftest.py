"""A running server with a tiny random model, and the same model to compare with; all in this process."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from PIL import Image

from llava.inference import Inference
from llava.inference.feature_cache import FeatureCache
from llava.serve.api.engine import Engine
from llava.serve.api.limits import Limits
from llava.serve.api.metrics import Metrics
from llava.serve.api.models import ModelNames
from llava.serve.api.run import listen, make_server
from llava.serve.api.service import Service

BUDGET = "visionzip:54+10"
PATIENCE = 120.0  # seconds, on a machine that does other things too


@dataclass
class Running:
    """A server that answers at `url`."""

    service: Service
    server: uvicorn.Server
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> openai.OpenAI:
        key = self.service.key or "none"
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE)

    def post(self, body: Any, **options: Any) -> httpx.Response:
        url = f"{self.url}/v1/chat/completions"
        return httpx.post(url, json=body, timeout=PATIENCE, trust_env=False, **options)

    def count(self, name: str) -> float:
        """A figure of /metrics."""
        lines = httpx.get(f"{self.url}/metrics", timeout=PATIENCE, trust_env=False).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split()[0] == name)


Start = Callable[..., Running]


@pytest.fixture(scope="package")
def alone(oracle_dir: Path) -> Inference:
    """The model that tests ask by themselves. Its weights are random, so its answers do not end."""
    return Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu", compression=BUDGET)


@pytest.fixture(scope="package")
def start(oracle_dir: Path) -> Iterator[Start]:
    """Starts a server; its model is its own, all servers of a test run share it one after the other."""
    usual = Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu", compression=BUDGET)
    running: list[tuple[Running, threading.Thread]] = []

    def stop() -> None:
        while running:
            last, thread = running.pop()
            last.server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def begin(
        limits: Limits | None = None, batch_size: int | None = None, inference: Inference = usual, **options: Any
    ) -> Running:
        stop()
        inference.feature_cache = FeatureCache(64 * 2**20)
        inference.model.set_compression(BUDGET)
        metrics = Metrics()
        engine = Engine(inference, metrics, batch_size)
        names = ModelNames("tiny", inference.model.compression)
        service = Service(engine, names, limits or Limits(new_tokens=64), metrics, **options)
        listening = listen("127.0.0.1", 0)
        server = make_server(service)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        running.append((Running(service, server, listening.getsockname()[1]), thread))
        until(lambda: server.started)
        return running[-1][0]

    yield begin
    stop()


def until(happens: Callable[[], Any]) -> None:
    """Waits for something that happens elsewhere."""
    end = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


def picture(number: int = 0, size: tuple[int, int] = (48, 32)) -> bytes:
    """A file of its own for each number."""
    file = io.BytesIO()
    colour = (number * 37 % 256, number * 91 % 256, number * 151 % 256)
    image = Image.new("RGB", size, colour)
    image.paste((255 - colour[0], 20, 99), (number % 7, 3, 20 + number % 11, 25))
    image.save(file, "PNG")
    return file.getvalue()


def part(content: bytes | str) -> dict[str, Any]:
    """An image as a part of a message."""
    url = content if isinstance(content, str) else f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def asked(text: str, *images: bytes | str, model: str = "tiny", **options: Any) -> dict[str, Any]:
    """The body of a request."""
    content = [{"type": "text", "text": text}, *map(part, images)]
    return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 8} | options
