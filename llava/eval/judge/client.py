"""A judge behind an OpenAI-compatible endpoint: asks, waits as it is told to, asks again, and never shows the key."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

KEY_VARIABLES = ("LLAVA_JUDGE_KEY", "OPENAI_API_KEY")

Message: TypeAlias = dict[str, str]

_PATH = "/chat/completions"
_SHOWN = 300
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
        """Refuses what could only fail later, without showing the key."""
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise ValueError(f"the judge's address {self.shown_url!r} is not of the form https://host/v1")
        if not (self.key.isascii() and self.key.isprintable()):
            raise ValueError(f"the judge's key (of {' or '.join(KEY_VARIABLES)}) has characters that no key has")

    @property
    def shown_url(self) -> str:
        """The address without what may be secret in it: user, password and query."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def request(self, messages: Sequence[Message], max_tokens: int) -> dict[str, Any]:
        """The body of a request: greedy, and what `extra` adds or takes out."""
        body = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": max_tokens}
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

    def _send(self, body: bytes) -> Reply:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(self._address(), data=body, headers=headers, method="POST")
        try:
            with _OPENER.open(request, timeout=self.timeout) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            raise self._failure(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise _Passing(f"no answer of {self.shown_url}: {self._shown(str(reason) or repr(reason))}") from None
        return self._read(content)

    def _read(self, content: bytes) -> Reply:
        try:
            answer = json.loads(content)
            text = answer["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            shown = self._shown(content.decode(errors="replace"))
            raise _Passing(f"the server's answer is no chat completion: {shown!r}") from None
        return Reply(text if isinstance(text, str) else "", str(answer.get("model") or ""))

    def _failure(self, error: urllib.error.HTTPError) -> Exception:
        """What an HTTP status means for the question, or for the whole run."""
        try:
            told = self._shown(error.read(65536).decode(errors="replace"))
        except (OSError, http.client.HTTPException):
            told = ""
        message = f"{self.shown_url} answered {error.code} {error.reason}: {told}"
        if error.code in _PASSING or error.code >= 500:
            return _Passing(message, _seconds(error.headers.get("Retry-After")))
        if error.code in _REFUSALS or error.code < 400:  # a redirect is not followed: it would carry the key elsewhere
            return JudgeRefused(f"{message}; check --judge-url, --judge-model and {' or '.join(KEY_VARIABLES)}")
        return JudgeError(message)

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


def _seconds(retry_after: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: it holds a number or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """No other request is made."""
        return


_OPENER = urllib.request.build_opener(_NoRedirect)
