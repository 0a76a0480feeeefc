"""What the judge's tests share: a local server, a key, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llava.eval.judge.client import JudgeClient
from tests.eval.judge_server import JudgeServer, judging

KEY = "sk-very-secret"


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judging() as state:
        yield state


@pytest.fixture(autouse=True)
def own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("LLAVA_JUDGE_KEY", KEY)


def client(server: JudgeServer, **more: Any) -> JudgeClient:
    return JudgeClient(server.url, "gpt-judge", KEY, **({"first_wait": 0.01, "timeout": 5.0} | more))


def ask(judge: JudgeClient) -> str:
    return judge.ask(judge.request([{"role": "user", "content": "How good?"}], 3)).text
