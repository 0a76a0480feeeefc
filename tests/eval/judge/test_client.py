"""The judge's client against a local server that speaks the protocol, times out, rate-limits and returns rubbish."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from llava.eval.judge.cache import JudgeCache
from llava.eval.judge.client import JudgeClient, JudgeError, JudgeRefused, key_from_environment
from tests.eval.judge.conftest import KEY, ask, client
from tests.eval.judge_server import JudgeServer, Misbehaviour


def test_the_protocol(server: JudgeServer) -> None:
    judge = client(server, extra={"seed": 7, "max_tokens": None, "max_completion_tokens": 900})
    assert ask(judge) == "0.5"
    [(path, headers, body)] = server.requests
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "gpt-judge",
        "messages": [{"role": "user", "content": "How good?"}],
        "temperature": 0,
        "seed": 7,
        "max_completion_tokens": 900,
    }
    ask(JudgeClient(f"{server.url}/chat/completions?version=1", "gpt-judge"))
    assert server.requests[1][0] == "/v1/chat/completions?version=1" and "Authorization" not in server.requests[1][1]


@pytest.mark.parametrize(
    "trouble",
    [
        Misbehaviour(500, body=b"oops"),
        Misbehaviour(503),
        Misbehaviour(429, {"Retry-After": "0"}),
        Misbehaviour(body=b"{broken"),
        Misbehaviour(body=b'{"choices": []}'),
        Misbehaviour(body=b'"a text"'),
        Misbehaviour(body=b"[" * 200_000),
        Misbehaviour(hang_up=True),
        Misbehaviour(seconds=0.6),
    ],
    ids=["500", "503", "429", "broken JSON", "no choice", "another JSON", "nested JSON", "hang-up", "time-out"],
)
def test_what_passes_is_tried_again(server: JudgeServer, trouble: Misbehaviour) -> None:
    server.troubles = [trouble, trouble]
    assert ask(client(server, timeout=0.3)) == "0.5"
    assert len(server.requests) == 3


def test_waits_grow_and_the_server_may_ask_for_longer(server: JudgeServer) -> None:
    server.troubles = [Misbehaviour(500)] * 3
    ask(client(server, first_wait=0.05))
    waits = [late - early for early, late in zip(server.times, server.times[1:], strict=False)]
    assert [wait >= least for wait, least in zip(waits, (0.05, 0.1, 0.2), strict=True)] == [True] * 3
    server.times.clear()
    server.troubles = [Misbehaviour(429, {"Retry-After": "0.3"})]
    ask(client(server, first_wait=0.001))
    assert server.times[1] - server.times[0] >= 0.3
    later = format_datetime(datetime.now(UTC) + timedelta(hours=3))
    server.troubles = [Misbehaviour(429, {"Retry-After": later})]
    start = time.monotonic()
    ask(client(server, first_wait=0.001, longest_wait=0.2))
    assert 0.2 <= time.monotonic() - start < 5


def test_attempts_end_and_say_why(server: JudgeServer) -> None:
    server.troubles = [Misbehaviour(500, body=f"key {KEY} is tired".encode())] * 9
    with pytest.raises(JudgeError, match=r"500 .*key \[key\] is tired \(3 attempts\)"):
        ask(client(server, attempts=3))
    assert len(server.requests) == 3
    with pytest.raises(JudgeError, match=r"no answer of http://127\.0\.0\.1:9/v1: .*refused"):
        ask(JudgeClient("http://127.0.0.1:9/v1", "m", attempts=1))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_ends_the_run_at_once(server: JudgeServer, status: int) -> None:
    server.troubles = [Misbehaviour(status, body=f"no such key: {KEY}".encode())]
    with pytest.raises(
        JudgeRefused, match=rf"{status} .*\[key\]; check --judge-url, --judge-model and LLAVA_JUDGE_KEY"
    ):
        ask(client(server))
    assert len(server.requests) == 1


def test_a_wrong_request_is_not_repeated_and_a_redirect_not_followed(server: JudgeServer) -> None:
    server.troubles = [Misbehaviour(400, body=b"too long"), Misbehaviour(302, {"Location": "http://127.0.0.1:9/"})]
    with pytest.raises(JudgeError, match=r"400 .*too long"):
        ask(client(server))
    with pytest.raises(JudgeRefused, match="302"):
        ask(client(server))
    assert len(server.requests) == 2


def test_a_reply_without_end_is_not_read(server: JudgeServer) -> None:
    server.troubles = [Misbehaviour(body=b'{"choices": "' + b"x" * 5 * 2**20), Misbehaviour(500, body=b"y" * 5 * 2**20)]
    for _ in range(2):
        with pytest.raises(JudgeError, match=r"v1 sends more than 4194304 bytes for one reply"):
            ask(client(server))
    assert len(server.requests) == 2


def test_the_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEY not in repr(JudgeClient("https://host/v1", "m", KEY))
    assert JudgeClient("https://user:pass@host/v1?api-key=1", "m").shown_url == "https://host/v1"
    with pytest.raises(ValueError, match="LLAVA_JUDGE_KEY or OPENAI_API_KEY") as error:
        JudgeClient("https://host/v1", "m", f"{KEY}\nX: 1")
    assert KEY not in str(error.value)
    assert key_from_environment() == KEY
    monkeypatch.setenv("LLAVA_JUDGE_KEY", " ")
    monkeypatch.setenv("OPENAI_API_KEY", " other\n")
    assert key_from_environment() == "other"


def test_the_cache_survives_a_kill_and_refuses_another_file(tmp_path: Path, server: JudgeServer) -> None:
    path = tmp_path / "judge_cache.jsonl"
    judge = client(server)
    request = judge.request([{"role": "user", "content": "How good?"}], 1)
    with JudgeCache(path) as cache:
        for key in ("a", "b"):
            cache.put(key, judge.ask(request))
    path.write_bytes(path.read_bytes()[:-5])
    again = JudgeCache(path)
    assert again.get("a") is not None and again.get("b") is None
    with again:
        again.put("b", judge.ask(request))
    assert JudgeCache(path).get("b") == again.get("b")
    path.write_text('{"key": 1}\n')
    with pytest.raises(ValueError, match=r"judge_cache\.jsonl is not a judge's cache"):
        JudgeCache(path)
