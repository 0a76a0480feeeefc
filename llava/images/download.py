"""An image from a URL: within a deadline and a size, and by no redirect into a private network."""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import httpx

from llava.images.decoding import UnreadableImageError
from llava.utils import shown

_DEADLINE_S = 30.0
_MAX_BYTES = 64 * 2**20
_MOST_REDIRECTS = 5
_SCHEMES = ("http", "https")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # one letter is a drive of Windows
_USER = re.compile(r"://(.*)@", re.DOTALL)  # up to the last: a password may hold / ? # @ as they are
# The client's own words would quote a part of the password.
_WRITTEN_OTHERWISE = "it is no valid URL; in a user or password write / ? # @ as %2F %3F %23 %40"


class Download(bytes):
    """What a URL gave.

    Attributes:
        name: The URL, without a user and password.
    """

    name: str


def is_url(source: object) -> bool:
    """Whether an image is named by a URL, of whatever scheme."""
    return isinstance(source, str) and _SCHEME.match(source) is not None


def shown_url(url: str) -> str:
    """A URL for messages: shortened, and without user and password; `***` if they are perhaps a part of its path."""
    return shown(_USER.sub(lambda user: "://***@" if re.search("[/?#]", user[1]) else "://", url))


def download(url: str, deadline: float = _DEADLINE_S) -> Download:
    """Fetches an image; what comes is not looked into.

    Args:
        url: Of http or https. A user and password in it are sent to its own server.
        deadline: Seconds that the whole of it may take, redirects included.

    Raises:
        UnreadableImageError: It cannot be had, not in time, or is too large; or it redirects from a public address to a
            private one. The message names the URL, without user and password.
    """
    with _Deadline(deadline) as guard:
        try:
            content = _fetch(url, guard)
        except _RefusedError as error:
            reason = str(error)
        except httpx.TimeoutException:
            reason = "the server is silent for too long"
        except httpx.InvalidURL as error:
            reason = _WRITTEN_OTHERWISE if "@" in url else shown(str(error))
        except (httpx.HTTPError, OSError, ImportError, ValueError) as error:
            reason = shown_url(str(error)) or type(error).__name__
        else:
            result = Download(content)
            result.name = shown_url(url)
            return result
        if guard.is_over:
            reason = f"it is not there after {deadline:g} seconds"
    raise UnreadableImageError(f"cannot download image {shown_url(url)!r}: {reason}") from None


class _RefusedError(Exception):
    """Why a URL, or what comes from it, is not taken."""


def _fetch(url: str, guard: _Deadline) -> bytes:
    """The body, redirects followed one by one.

    Raises:
        _RefusedError: It is not taken.
        httpx.HTTPError, httpx.InvalidURL, OSError, ValueError: It does not come.
    """
    address = httpx.URL(url)
    guard.allow(address)  # a client's request of a URL without a host forgets its scheme
    user = (address.username, address.password) if address.userinfo else None
    headers = {"Accept-Encoding": "identity"}  # a short body could unpack to a huge one
    with httpx.Client(timeout=guard.seconds, headers=headers) as client:
        request: httpx.Request | None = client.build_request(
            "GET", address.copy_with(userinfo=b""), extensions={"trace": guard.trace}
        )
        for _ in range(_MOST_REDIRECTS + 1):
            assert request is not None
            guard.allow(request.url)
            response = client.send(request, stream=True, auth=user)
            with _closing(response):
                if response.next_request is None:
                    return _body(response, guard)
                request, user = response.next_request, None  # which has the headers that may go on
                guard.is_redirected = True
    raise _RefusedError(f"it redirects more than {_MOST_REDIRECTS} times")


@contextmanager
def _closing(response: httpx.Response) -> Iterator[None]:
    try:
        yield
    finally:
        response.close()


def _body(response: httpx.Response, guard: _Deadline) -> bytes:
    if not response.is_success:
        raise _RefusedError(f"the server answers {response.status_code} {shown(response.reason_phrase)}".rstrip())
    content = bytearray()
    for part in response.iter_raw():
        content += part
        if len(content) > _MAX_BYTES:
            raise _RefusedError(f"it is larger than {_MAX_BYTES >> 20} MiB")
        guard.check()
    return bytes(content)


class _Deadline:
    """Ends a download that takes too long, however it takes its time, and looks at the addresses it goes to.

    A timeout of a client counts from byte to byte; so a timer shuts the connection, wherever it waits.

    Attributes:
        seconds: Until then.
        is_over: Whether the time is up.
        is_redirected: Whether the URL itself has led elsewhere.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_over = False
        self.is_redirected = False
        self._began_private = False
        self._host = ""
        self._is_direct = True
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        self._timer.join()
        self._keep(None)

    def check(self) -> None:
        """Raises _RefusedError if the time is up."""
        if self.is_over:
            raise _RefusedError("the time is up")

    def allow(self, url: httpx.URL) -> None:
        """Looks at a URL before it is asked, perhaps by a proxy, which tells no address.

        Raises:
            _RefusedError: It is of another scheme, or redirects to a private address.
        """
        self.check()
        if url.scheme not in _SCHEMES:
            raise _RefusedError(f"{url.scheme}:// is not supported, only http:// and https://")
        if not url.host:
            raise _RefusedError("it names no server")
        self._host = url.raw_host.decode("ascii")
        if self._host == "localhost" or _is_private(self._host):
            self._found_private()

    def trace(self, event: str, details: Mapping[str, Any]) -> None:
        """Called by httpx at each step of a connection; looks at the address once there is one."""
        if event.endswith("connect_tcp.started"):
            self._is_direct = details["host"] == self._host  # else to a proxy
        if not event.endswith("connect_tcp.complete"):
            return
        stream = details["return_value"]
        self._keep(stream.get_extra_info("socket").dup())  # TLS takes the socket itself into another object
        self.check()  # it may have been over before there was a socket to shut
        peer = stream.get_extra_info("server_addr")
        if self._is_direct and peer and _is_private(str(peer[0])):
            self._found_private()

    def _found_private(self) -> None:
        if self.is_redirected and not self._began_private:
            raise _RefusedError("it redirects to a private address")
        self._began_private = True

    def _keep(self, connection: socket.socket | None) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = connection

    def _end(self) -> None:
        self.is_over = True
        if self._socket is not None:
            with suppress(OSError):  # the server may have left
                self._socket.shutdown(socket.SHUT_RDWR)


def _is_private(host: str) -> bool:
    """Whether a host is written as an address that is not of the open internet."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_global
