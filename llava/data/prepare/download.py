"""HTTP downloads that survive cut connections, restarts and servers that say one thing and send another."""

from __future__ import annotations

import http.client
import json
import random
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 60.0
_HEADERS = {"User-Agent": "llava-visionzip", "Accept-Encoding": "identity"}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_NETWORK_ERRORS = (http.client.HTTPException, OSError)

Progress = Callable[[int], None]


class DownloadError(Exception):
    """A file cannot be downloaded; the message says why, without the URL.

    Attributes:
        url: Where it was looked for.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(reason)
        self.url = url


class UnreachableError(DownloadError):
    """Every attempt failed, as far as one can tell by no fault of the file."""


class Stopped(Exception):
    """The user stopped the program."""


class _TryAgain(Exception):
    """An attempt failed in a way that another may not.

    Attributes:
        wait: Seconds that the server asks to wait.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _NothingMore(Exception):
    """The server has no bytes from there on (HTTP 416).

    Attributes:
        total: Bytes of the file as it now says, None if it does not.
    """

    def __init__(self, content_range: str) -> None:
        super().__init__(content_range)
        total = content_range.removeprefix("bytes */")
        self.total = _whole(total)


@dataclass(frozen=True)
class Remote:
    """What a server says of a file. It is kept beside the downloaded part, so that two versions are not joined.

    Attributes:
        url: As asked for.
        size: Bytes of the whole file, None if the server does not say.
        etag: Its ETag.
        modified: Its Last-Modified.
    """

    url: str
    size: int | None
    etag: str | None
    modified: str | None

    @property
    def validator(self) -> str | None:
        """What If-Range may be: a strong ETag, or a date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def is_same_file(self, other: Remote) -> bool:
        """Whether nothing that both know speaks against it."""
        pairs = ((self.size, other.size), (self.etag, other.etag), (self.modified, other.modified))
        return self.url == other.url and all(a == b for a, b in pairs if a is not None and b is not None)


class Downloader:
    """Fetches files, each into a part that a later call goes on with; safe to use from several threads."""

    def __init__(self, *, retries: int = 5, timeout: float = 30.0, wait: float = 1.0) -> None:
        """Keeps the settings.

        Args:
            retries: Attempts in a row that bring nothing new, after which a file is given up.
            timeout: Seconds without a byte after which a connection is dead.
            wait: Seconds before the second attempt; doubled for each further one.
        """
        self.retries = retries
        self.timeout = timeout
        self.wait = wait
        self.stopped = threading.Event()

    def size_of(self, url: str) -> int | None:
        """Bytes of a file as the server says (HEAD), None if it does not.

        Raises:
            DownloadError: The server has no such file, or does not answer.
        """
        return self._insist(url, lambda: self._head(url), lambda: 0)

    def fetch(self, url: str, part: Path, progress: Progress = lambda count: None) -> None:
        """Downloads a file completely.

        Args:
            url: http or https.
            part: Where it goes. What is there of it already is kept, if the server can go on from there and the file
                has not changed since; a small JSON file beside it says from which version it is.
            progress: Called with the bytes that are there, then those that come (negative where some are thrown away).

        Raises:
            DownloadError: The server does not give it.
            Stopped: `stopped` was set.
        """
        part.parent.mkdir(parents=True, exist_ok=True)
        progress(_size(part))
        self._insist(url, lambda: self._attempt(url, part, progress), lambda: _size(part))
        _state_file(part).unlink(missing_ok=True)

    def _insist(self, url: str, attempt: Callable[[], Any], achieved: Callable[[], int]) -> Any:
        """Repeats an attempt until it succeeds, or has brought nothing new too often."""
        if not url.startswith(("http://", "https://")):
            raise DownloadError(url, "not an http(s) URL")
        failures, most = 0, achieved()
        while True:
            try:
                return attempt()
            except _TryAgain as problem:
                failures = 1 if achieved() > most else failures + 1
                most = max(most, achieved())
                if failures > self.retries:
                    raise UnreachableError(url, f"{problem} (given up after {failures} attempts)") from problem
                delay = problem.wait or self.wait * 2 ** (failures - 1) * random.uniform(0.8, 1.2)
                if self.stopped.wait(min(delay, _LONGEST_WAIT_S)):
                    raise Stopped from None

    def _head(self, url: str) -> int | None:
        with self._open(urllib.request.Request(url, headers=_HEADERS, method="HEAD")) as response:
            return _remote(url, response).size

    def _attempt(self, url: str, part: Path, progress: Progress) -> None:
        """One request and what comes of it.

        Raises:
            _TryAgain: The file is not complete.
        """
        known, have = _read_state(part, url), _size(part)
        if known is None or (known.size is not None and have > known.size):
            _forget(part, progress)
            known, have = None, 0
        if known is not None and known.size == have:
            return  # stopped between the last byte and the end
        headers = dict(_HEADERS)
        if have:
            headers["Range"] = f"bytes={have}-"
            if known is not None and known.validator is not None:
                headers["If-Range"] = known.validator
        try:
            opened = self._open(urllib.request.Request(url, headers=headers))
        except _NothingMore as end:
            if end.total == have:
                return  # it had announced more than it has
            _forget(part, progress)
            raise _TryAgain("the server has fewer bytes, so the part here is of another file") from end
        with opened as response:
            remote = _remote(url, response)
            if response.status == 206:
                start = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
                if known is None or start is None or int(start[1]) != have or not remote.is_same_file(known):
                    _forget(part, progress)
                    raise _TryAgain("the file changed on the server, or it continued at another place")
            else:  # the server ignores ranges, or the file is another one now
                _forget(part, progress)
                have = 0
            _state_file(part).write_text(json.dumps(asdict(remote)), encoding="utf-8")
            self._receive(response, part, progress)
        if remote.size is not None and _size(part) != remote.size:
            raise _TryAgain(f"the connection ended after {_size(part):,} of {remote.size:,} bytes")

    def _receive(self, response: http.client.HTTPResponse, part: Path, progress: Progress) -> None:
        with part.open("ab") as file:
            while True:
                if self.stopped.is_set():
                    raise Stopped
                try:
                    chunk = response.read1(_CHUNK)  # what has come, so that nothing waits for a full chunk
                except http.client.IncompleteRead as error:
                    file.write(error.partial)
                    progress(len(error.partial))
                    raise _TryAgain("the connection was cut") from error
                except _NETWORK_ERRORS as error:
                    raise _TryAgain(f"the connection failed: {error or type(error).__name__}") from error
                if not chunk:
                    return
                file.write(chunk)
                progress(len(chunk))

    def _open(self, request: urllib.request.Request) -> Any:
        """Sends a request; a failure is either to be tried again or final."""
        if self.stopped.is_set():
            raise Stopped
        try:
            return urllib.request.urlopen(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:
                raise _NothingMore(error.headers.get("Content-Range", "")) from error
            reason = f"HTTP {error.code} {error.reason}".strip()
            if error.code in _RETRIED:
                raise _TryAgain(reason, _whole(error.headers.get("Retry-After", ""))) from error
            raise DownloadError(request.full_url, reason) from error
        except urllib.error.URLError as error:
            raise _TryAgain(f"no connection: {error.reason}") from error
        except _NETWORK_ERRORS as error:
            raise _TryAgain(f"no answer: {error or type(error).__name__}") from error
        except ValueError as error:
            raise DownloadError(request.full_url, f"not a usable URL ({error})") from error


def _remote(url: str, response: http.client.HTTPResponse) -> Remote:
    """What a reply says of the whole file."""
    headers = response.headers
    size = _whole(headers.get("Content-Length", ""))
    if response.status == 206:
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if found and found[2] != "*":
            size = int(found[2])
        elif size is not None:
            size = size + int(found[1]) if found else None
    return Remote(url, size, headers.get("ETag"), headers.get("Last-Modified"))


def _whole(text: str) -> int | None:
    """The number that a header holds, None if it is none; `²` is a digit to Python, but not to `int`."""
    return int(text) if text.isascii() and text.isdecimal() else None


def _state_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_state(part: Path, url: str) -> Remote | None:
    """Which version the part is of; None if that is not known, or it is from another URL."""
    try:
        state = Remote(**json.loads(_state_file(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return state if state.url == url else None


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _forget(part: Path, progress: Progress) -> None:
    """Throws a part away."""
    progress(-_size(part))
    part.unlink(missing_ok=True)
    _state_file(part).unlink(missing_ok=True)
