"""An image from a URL: within a deadline and a size, and by no redirect into a private network.

Where others choose the URLs, `public_only` keeps private networks out: a name is looked up once, its addresses are
checked, and one of those is connected to, whatever the name leads to a moment later. This holds for every redirect.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import httpx

from llava.images.decoding import UnreadableImageError
from llava.images.hosts import PrivateAddressError, is_public, names_private, public_addresses
from llava.utils import shown

_DEADLINE_S = 30.0
_MAX_BYTES = 64 * 2**20
_MOST_REDIRECTS = 5
_PORTS = {"http": 80, "https": 443}
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


def download(
    url: str,
    deadline: float = _DEADLINE_S,
    *,
    public_only: bool = False,
    max_bytes: int | None = None,
    what: str = "image",
) -> Download:
    """Fetches an image, or a video; what comes is not looked into.

    Args:
        url: Of http or https. A user and password in it are sent to its own server.
        deadline: Seconds that the whole of it may take, redirects included.
        public_only: Whether a private address is refused also where the URL itself names it.
        max_bytes: The largest body that is read; 64 MiB by default.
        what: What messages call it.

    Raises:
        UnreadableImageError: It cannot be had, not in time, or is too large; or it is, or redirects to, a private
            address, and that is not allowed. The message names the URL, without user and password.
    """
    with _Deadline(deadline, public_only, _MAX_BYTES if max_bytes is None else max_bytes) as guard:
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
    raise UnreadableImageError(f"cannot download {what} {shown_url(url)!r}: {reason}") from None


class _RefusedError(Exception):
    """Why a URL, or what comes from it, is not taken."""


def _fetch(url: str, guard: _Deadline) -> bytes:
    """The body, redirects followed one by one.

    Raises:
        _RefusedError: It is not taken.
        httpx.HTTPError, httpx.InvalidURL, OSError, ValueError: It does not come.
    """
    address = httpx.URL(url)
    user = (address.username, address.password) if address.userinfo else None
    headers = {"Accept-Encoding": "identity"}  # a short body could unpack to a huge one
    with httpx.Client(timeout=guard.seconds, headers=headers) as client:
        for _ in range(_MOST_REDIRECTS + 1):
            response = _ask(client, address, user, guard)
            with _closing(response):
                if not response.has_redirect_location:
                    return _body(response, guard)
                address, user = address.join(response.headers["location"]), None
                guard.is_redirected = True
    raise _RefusedError(f"it redirects more than {_MOST_REDIRECTS} times")


def _ask(client: httpx.Client, address: httpx.URL, user: tuple[str, str] | None, guard: _Deadline) -> httpx.Response:
    """Sends one request; where addresses are checked, to the first of them that takes it. Raises as `_fetch`."""
    addresses = guard.allow(address)
    named = address.copy_with(userinfo=b"")
    extensions: dict[str, Any] = {"trace": guard.trace}
    if not addresses:
        return client.send(client.build_request("GET", named, extensions=extensions), stream=True, auth=user)
    extensions["sni_hostname"] = named.raw_host.decode("ascii")  # the certificate is still that of the name
    headers = {"Host": named.netloc.decode("ascii")}
    for number, each in enumerate(addresses, start=1):
        guard.goes_to(each)
        request = client.build_request("GET", named.copy_with(host=each), headers=headers, extensions=extensions)
        try:
            return client.send(request, stream=True, auth=user)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            if number == len(addresses) or guard.is_over:
                raise
    raise AssertionError


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
        if len(content) > guard.max_bytes:
            raise _RefusedError(f"it is larger than {guard.max_bytes >> 20} MiB")
        guard.check()
    return bytes(content)


class _Deadline:
    """Ends a download that takes too long, however it takes its time, and looks at the addresses it goes to.

    A timeout of a client counts from byte to byte; so a timer shuts the connection, wherever it waits.

    Attributes:
        seconds: Until then.
        public_only: Whether no private address may be asked, not even first.
        max_bytes: Of the body.
        is_over: Whether the time is up.
        is_redirected: Whether the URL itself has led elsewhere.
    """

    def __init__(self, seconds: float, public_only: bool, max_bytes: int) -> None:
        self.seconds = seconds
        self.public_only = public_only
        self.max_bytes = max_bytes
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

    def allow(self, url: httpx.URL) -> list[str]:
        """Looks at a URL before it is asked, perhaps by a proxy, which tells no address.

        Returns:
            Where only public addresses are asked, those of its host; else nothing: the client looks it up.

        Raises:
            _RefusedError: It is of another scheme, or private and not allowed.
            OSError, ValueError: Its host is not known.
        """
        self.check()
        if url.scheme not in _PORTS:
            raise _RefusedError(f"{url.scheme}:// is not supported, only http:// and https://")
        if not url.host:
            raise _RefusedError("it names no server")
        self.goes_to(url.raw_host.decode("ascii"))
        if names_private(self._host):
            self._found_private()
        if not self.public_only:
            return []
        try:
            return public_addresses(self._host, url.port or _PORTS[url.scheme])
        except PrivateAddressError:
            self._found_private()
            raise

    def goes_to(self, host: str) -> None:
        """Says which host, or which address of it, is connected to next if no proxy is asked."""
        self._host = host

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
        if self._is_direct and peer and not is_public(str(peer[0])):
            self._found_private()

    def _found_private(self) -> None:
        if self.public_only:
            raise _RefusedError("it leads to a private address (--allow-private-urls takes those too)")
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
