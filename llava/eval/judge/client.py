"""A judge behind an OpenAI-compatible endpoint: asks, waits and asks again, and never shows the key."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import mktime_tz, parsedate_tz
from functools import cached_property
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import httpx

KEY_VARIABLES = ("LLAVA_JUDGE_KEY", "OPENAI_API_KEY")

Message: TypeAlias = dict[str, str]

_KEYS = " or ".join(KEY_VARIABLES)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_PATH = "/chat/completions"
_SHOWN = 300
_LONGEST_REPLY = 4 * 2**20  # bytes; a chat completion has thousands
_REFUSALS = (401, 403, 404, 405)  # no question would be answered
_PASSING = (408, 409, 425, 429)  # and 5xx


class JudgeError(Exception):
    """A question got no reply; the message says why."""


class JudgeRefused(ValueError):
    """The endpoint will answer no question: wrong address, key or model. The message says which."""


class _Passing(Exception):
    """A failure that may be gone the next time.

    Attributes:
        wait: Seconds that the server asks to wait, or None.
    """

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Reply:
    """What a judge said, and what the server calls it."""

    text: str
    model: str


@dataclass(frozen=True)
class JudgeClient:
    """An endpoint and how patiently it is asked.

    Attributes:
        url: Its base (`https://host/v1`) or the whole address of its chat/completions.
        model: The judge, as the endpoint knows it.
        key: Sent as a bearer token; "" sends none.
        extra: More fields of the request; None takes a field out, as where a server wants `max_completion_tokens`.
        timeout: Seconds without a byte after which a request has failed.
        attempts: How often a question is sent at most.
        first_wait: Seconds before the second attempt; doubled each time.
        longest_wait: Seconds of a single wait at most, whatever the server asks for.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 120.0
    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 120.0

    def __post_init__(self) -> None:
        """Refuses what could only fail later, without showing the key.

        Raises:
            ValueError: The address, the key, or a proxy that the environment names cannot be used.
        """
        if not self._has_good_address():
            shown = re.sub("//.*@", "//", self.url).partition("?")[0]
            raise ValueError(f"--judge-url {shown!r} is not of the form https://host/v1 or http://host:8000/v1")
        if not (self.key.isascii() and self.key.isprintable()):
            raise ValueError(f"the judge's key (of {_KEYS}) has characters that no key has")
        if self.key and "@" in urlsplit(self.url).netloc:
            raise ValueError(
                f"--judge-url has a user or a password, and a key (of {_KEYS}) is set; take one of them out"
            )
        try:
            _ = self._http
        except (ImportError, ValueError, httpx.InvalidURL):
            raise ValueError(
                f"the proxy that {_unusable_proxy()} names cannot be used: it must be an http:// or https:// address. "
                "Change it, or set NO_PROXY=* to ask without a proxy"
            ) from None

    @property
    def shown_url(self) -> str:
        """The address without what may be secret in it: user, password and query."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def request(self, messages: Sequence[Message], max_tokens: int, temperature: float = 0) -> dict[str, Any]:
        """The body of a request, and what `extra` adds or takes out."""
        body = {"model": self.model, "messages": list(messages), "temperature": temperature, "max_tokens": max_tokens}
        return {name: value for name, value in (body | dict(self.extra)).items() if value is not None}

    def ask(self, request: Mapping[str, Any]) -> Reply:
        """Sends a request until it is answered.

        Args:
            request: What `request` made.

        Raises:
            JudgeError: All attempts failed, or the server says that this request is wrong.
            JudgeRefused: The server will answer no request.
        """
        body = json.dumps(request).encode()
        for attempt in range(1, self.attempts + 1):
            try:
                return self._send(body)
            except _Passing as failure:
                if attempt == self.attempts:
                    raise JudgeError(f"{failure} ({attempt} attempts)") from None
                wait = self.first_wait * 2 ** (attempt - 1) if failure.wait is None else failure.wait
                time.sleep(min(wait, self.longest_wait))
        raise JudgeError("no attempt is allowed")

    @cached_property
    def _http(self) -> httpx.Client:
        # Threads share it. A redirect is not followed: it would carry the key elsewhere.
        logging.getLogger("httpx").addFilter(_hide_secrets)  # the same filter again is not added
        return httpx.Client(timeout=self.timeout, follow_redirects=False)

    def _send(self, body: bytes) -> Reply:
        # No compression: a small reply could unpack to gigabytes.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        content = b""
        try:
            with self._http.stream("POST", self._address(), content=body, headers=headers) as response:
                encoding = response.headers.get("Content-Encoding", "identity")
                if encoding != "identity":
                    status = f"{response.status_code} {response.reason_phrase}"
                    raise JudgeRefused(f"{self.shown_url} compresses its replies ({encoding}) unasked; status {status}")
                for chunk in response.iter_raw():
                    content += chunk
                    if len(content) > _LONGEST_REPLY:
                        raise JudgeError(f"{self.shown_url} sends more than {_LONGEST_REPLY} bytes for one reply")
        except httpx.HTTPError as error:
            raise _Passing(f"no answer of {self.shown_url}: {self._shown(str(error) or repr(error))}") from None
        if not response.is_success:
            raise self._failure(response, content)
        return self._read(content)

    def _read(self, content: bytes) -> Reply:
        try:
            answer = json.loads(content)
            text = answer["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            shown = self._shown(content.decode(errors="replace"))
            raise _Passing(f"the server's answer is not a chat completion: {shown!r}") from None
        return Reply(text if isinstance(text, str) else "", str(answer.get("model") or ""))

    def _failure(self, response: httpx.Response, content: bytes) -> Exception:
        """What an HTTP status means for the question, or for the whole run."""
        code = response.status_code
        words = self._shown(content.decode(errors="replace"))
        message = f"{self.shown_url} answered {code} {response.reason_phrase}: {words}"
        if code in _PASSING or code >= 500:
            return _Passing(message, _seconds(response.headers.get("Retry-After", "")))
        if code in _REFUSALS or code < 400:
            return JudgeRefused(f"{message}; check --judge-url, --judge-model and {_KEYS}")
        return JudgeError(message)

    def _has_good_address(self) -> bool:
        try:
            url = httpx.URL(self.url)
            url.raw_host.decode("ascii").encode("idna")  # as the look-up of the host will
            _ = httpx.URL(self._address())
            port = 80 if url.port is None else url.port
            return url.scheme in ("http", "https") and bool(url.host) and 0 < port < 2**16
        except (httpx.InvalidURL, ValueError):
            return False

    def _address(self) -> str:
        parts = urlsplit(self.url)
        path = parts.path.rstrip("/")
        return urlunsplit(parts._replace(path=path if path.endswith(_PATH) else path + _PATH, fragment=""))

    def _shown(self, text: str) -> str:
        """A server's words, short and without the key."""
        text = text.replace(self.key, "[key]") if self.key else text
        return " ".join(text.split())[:_SHOWN]


def key_from_environment() -> str:
    """The judge's key: `LLAVA_JUDGE_KEY`, else `OPENAI_API_KEY`, else ""."""
    return next((value for name in KEY_VARIABLES if (value := os.environ.get(name, "").strip())), "")


def _hide_secrets(record: logging.LogRecord) -> bool:
    """Takes user, password and query, where keys may be, out of the addresses in httpx's log."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            arg.copy_with(userinfo=b"", query=None) if isinstance(arg, httpx.URL) else arg for arg in record.args
        )
    return True


def _unusable_proxy() -> str:
    """The variable that names a proxy which httpx cannot use."""
    given = {name: address for name, address in os.environ.items() if name.lower() in _PROXIES and address}
    for name, address in given.items():
        try:
            httpx.HTTPTransport(proxy=address if "://" in address else f"http://{address}").close()
        except (ImportError, ValueError, httpx.InvalidURL):
            return name
    return " or ".join(given)


def _seconds(retry_after: str) -> float | None:
    """Seconds that a Retry-After header asks for: it holds a number or a date; None where it holds neither."""
    date = parsedate_tz(retry_after)
    try:
        return max(0.0, mktime_tz(date) - time.time() if date else float(retry_after))
    except ValueError:
        return None
