"""Where a judge is asked: addresses, proxies, what a log shows, and replies that would fill the memory."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator

import pytest

from llava.eval.judge.client import JudgeClient, JudgeRefused
from tests.eval.judge_server import JudgeServer, Misbehaviour, judging

KEY = "sk-very-secret"


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judging() as state:
        yield state


def ask(judge: JudgeClient) -> str:
    return judge.ask(judge.request([{"role": "user", "content": "How good?"}], 3)).text


@pytest.mark.parametrize("status", [200, 500])
def test_a_compressed_reply_is_not_unpacked(server: JudgeServer, status: int) -> None:
    server.troubles = [Misbehaviour(status, {"Content-Encoding": "gzip"}, gzip.compress(b" " * 2**24))]
    with pytest.raises(JudgeRefused, match=rf"v1 compresses its replies \(gzip\) unasked; status {status}"):
        ask(JudgeClient(server.url, "m"))
    assert [headers["Accept-Encoding"] for _, headers, _ in server.requests] == ["identity"]


def test_no_log_has_secrets_of_the_address(server: JudgeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    address = server.url.replace("//", "//someone:password@") + "?api-key=secret"
    assert ask(JudgeClient(address, "m")) == "0.5"
    assert server.requests[0][0].endswith("?api-key=secret") and "Authorization" in server.requests[0][1]
    assert f"POST {server.url}/chat/completions " in caplog.text
    assert not [word for word in ("someone", "password", "api-key", "secret") if word in caplog.text]


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8000",
        "http://localhost:port/v1",
        "http://localhost:99999/v1",
        "http://local\nhost/v1",
        "http://[::1/v1",
        "http://xn--/v1",
        "http://a..b/v1",
        "http:///v1",
        "ftp://host/v1",
        "http://user:hidden@host:port/v1?key=hidden",
    ],
)
def test_a_wrong_address_is_refused_at_once(address: str) -> None:
    with pytest.raises(ValueError, match=r"^--judge-url '.*' is not of the form https://host/v1") as error:
        JudgeClient(address, "m")
    assert "hidden" not in str(error.value)


def test_a_password_and_a_key_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="--judge-url has a user or a password, and a key") as error:
        JudgeClient("https://user:hidden@host/v1", "m", KEY)
    assert "hidden" not in str(error.value) and KEY not in str(error.value)


@pytest.mark.parametrize("proxy", ["socks5://someone:hidden@127.0.0.1:9", "http://someone:hidden@[::1"])
def test_a_proxy_that_cannot_be_used_is_named_at_once(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ValueError, match=r"the proxy that ALL_PROXY names cannot be used.*NO_PROXY=\*") as error:
        JudgeClient("https://host/v1", "m")
    assert "hidden" not in str(error.value)
    monkeypatch.setenv("NO_PROXY", "*")
    JudgeClient("https://host/v1", "m")
