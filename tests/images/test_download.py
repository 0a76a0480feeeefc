"""Images from URLs, from a local server that behaves as badly as servers do."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from llava.eval import run_llava
from llava.images import download as module
from llava.images.download import download, is_url, shown_url
from llava.images.source import UnreadableImageError, open_image

Serve = Callable[[socket.socket, str], None]


def picture() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (40, 30), (9, 200, 9)).save(content, "PNG")
    return content.getvalue()


def whole(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Server:
    """Answers each path as it is told; `requests` holds what was asked, whole."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.answers: dict[str, bytes | Serve] = {"/a.png": whole(picture())}
        self.requests: list[str] = []
        self.over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(1 << 16)
            self.requests.append(request.decode())
            path = request.split()[1].decode()
            answer = self.answers.get(path, whole(b"", status="404 Not Found"))
            if isinstance(answer, bytes):
                connection.sendall(answer)
            else:
                answer(connection, path)

    def drip(self, connection: socket.socket, path: str) -> None:
        """A byte every so often, so that no wait from byte to byte is ever long."""
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + (b"X-A: " if "head" in path else b"Content-Length: 9999\r\n\r\n"))
        while not self.over.wait(0.05):
            connection.sendall(b"a")

    def silence(self, connection: socket.socket, path: str) -> None:
        self.over.wait(20)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.over.set()
    made.listening.close()


def test_a_url_is_opened_and_named(server: Server) -> None:
    assert open_image(f"{server.url}/a.png").size == (40, 30)
    assert download(f"{server.url}/a.png").name == f"{server.url}/a.png"
    server.answers["/page"] = whole(b"<html>not here</html>")
    with pytest.raises(UnreadableImageError, match=rf"cannot read image {server.url}/page: not an image in any format"):
        open_image(f"{server.url}/page")


@pytest.mark.parametrize("how", ["drip-head", "drip-body", "silence"])
def test_the_deadline_is_of_the_whole_download(how: str, server: Server) -> None:
    server.answers[f"/{how}"] = server.silence if how == "silence" else server.drip
    start = time.perf_counter()
    with pytest.raises(UnreadableImageError, match=rf"/{how}': it is not there after 0\.5 seconds"):
        download(f"{server.url}/{how}", deadline=0.5)
    assert time.perf_counter() - start < 2


def test_the_deadline_holds_while_keys_are_exchanged(server: Server) -> None:
    def drip() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.sendall(b"\x16\x03\x03\x40\x00")  # a record of TLS, which then comes byte by byte
            while not server.over.wait(0.05):
                connection.sendall(b"\x02")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, daemon=True).start()
        start = time.perf_counter()
        with pytest.raises(UnreadableImageError, match="not there after"):
            download(f"https://127.0.0.1:{listening.getsockname()[1]}/a.png", deadline=0.5)
        assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\x01 what is this\r\n\r\n",  # BadStatusLine
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort",  # IncompleteRead
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000,
        b"",
        whole(b"", "Location: http://[::1", status="302 Found"),
        whole(b"", "Location: http://", status="302 Found"),
        whole(b"gone", status="410 Gone"),
        whole(b"", status="304 Not Modified"),
    ],
)
def test_what_is_no_http_is_one_error(answer: bytes, server: Server) -> None:
    server.answers["/odd"] = answer
    with pytest.raises(UnreadableImageError, match=rf"^cannot download image '{server.url}/odd': .") as caught:
        download(f"{server.url}/odd", deadline=5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://a b/", "http://[::1", "http://x:99999999/", "http://", "http:///a.png", "http://127.0.0.1:1/a.png"]
)
def test_what_is_no_url_is_one_error(url: str) -> None:
    with pytest.raises(UnreadableImageError, match=r"^cannot download image "):
        open_image(url)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.png", "file:///etc/passwd", "FTP://a/b", "gopher://a/b"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(UnreadableImageError, match=r":// is not supported, only http:// and https://"):
        open_image(url)
    assert is_url(url) and is_url("HTTP://a/b.png") and not is_url("a.png") and not is_url("C://a.png")


def test_a_redirect_to_another_scheme_is_refused(server: Server) -> None:
    for target in ("ftp://127.0.0.1/a.png", "file:///etc/hostname"):
        server.answers["/r"] = whole(b"", f"Location: {target}", status="302 Found")
        with pytest.raises(UnreadableImageError, match="is not supported, only http"):
            download(f"{server.url}/r")


def test_redirects_are_followed_a_few_times(server: Server) -> None:
    server.answers["/r"] = whole(b"", "Location: /a.png", status="301 Moved")
    assert open_image(f"{server.url}/r").size == (40, 30), "a private address may lead to another"
    server.answers["/loop"] = whole(b"", "Location: /loop", status="302 Found")
    with pytest.raises(UnreadableImageError, match="redirects more than 5 times"):
        download(f"{server.url}/loop")


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/a.png", "http://localhost:{port}/a.png", "http://[::1]/"])
def test_a_public_address_does_not_lead_to_a_private_one(
    target: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The public address is asked by a proxy, which is the local server."""
    monkeypatch.setenv("http_proxy", server.url)
    public = "http://images.example.com/a.png"
    server.answers[public] = whole(b"", f"Location: {target.format(port=server.port)}", status="302 Found")
    with pytest.raises(UnreadableImageError, match="redirects to a private address"):
        download(public)
    assert len(server.requests) == 1
    server.answers[public] = whole(picture())
    assert open_image(public).size == (40, 30), "a proxy of the network's own is no private address of the URL's"


def test_the_address_counts_and_not_the_name(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is looked up here and leads to this machine: no proxy is asked for it."""
    own = socket.gethostname()
    if not socket.gethostbyname(own).startswith(("127.", "10.", "172.", "192.168.")):
        pytest.skip("this machine's name has a public address")
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", own)
    everywhere = socket.create_server(("", 0))  # a server on the address of the machine's name
    target = f"http://{own}:{everywhere.getsockname()[1]}/a.png"
    server.answers["http://images.example.com/"] = whole(b"", f"Location: {target}", status="302 Found")
    with everywhere, pytest.raises(UnreadableImageError, match="redirects to a private address"):
        download("http://images.example.com/", deadline=5)


def test_a_password_is_sent_and_never_shown(server: Server) -> None:
    address = server.url.replace("//", "//user:s3cret@")
    download(f"{address}/a.png")
    assert "authorization: basic " in server.requests[-1].lower() and "s3cret" not in server.requests[-1]
    server.answers["/page"] = whole(b"no image")
    server.answers["/r"] = whole(b"", f"Location: http://other:s3cret@127.0.0.1:{server.port}/none", status="302 Found")
    for path in ("a.jpg", "page", "r"):
        with pytest.raises(UnreadableImageError) as caught:
            open_image(f"{address}/{path}")
        assert "s3cret" not in str(caught.value) and f"{server.url}/{path}" in str(caught.value)
    with pytest.raises(UnreadableImageError) as caught:
        open_image("http://user:s3cret@[::1/a.png")
    assert "s3cret" not in str(caught.value)
    assert shown_url("https://u:p@ss@host/a") == "https://host/a"


@pytest.mark.parametrize("password", ["hunt/er2", "hunt#er2", "hunt?er2", "12/hunt", "h@/unt", "hunt@er"])
def test_whatever_a_password_holds_is_not_shown(password: str, server: Server) -> None:
    url = server.url.replace("//", f"//user:{password}@")
    with pytest.raises(UnreadableImageError) as caught:
        open_image(f"{url}/none.png")
    assert not any(part in str(caught.value) for part in ("hunt", "er2", "12/", "user:"))
    assert "none.png" in str(caught.value)
    with pytest.raises(SystemExit) as ended:
        run_llava.main(["--model-path", "x", "--query", "a", "--image-file", f"http://u:{password},more@host/x.png"])
    assert not any(part in str(ended.value) for part in ("hunt", "er2", "12/", "u:"))
    assert "was split at ','" in str(ended.value)


def test_a_url_without_a_server_keeps_its_scheme() -> None:
    with pytest.raises(UnreadableImageError, match="file:// is not supported"):
        open_image("file:///x")
    with pytest.raises(UnreadableImageError, match="it names no server"):
        open_image("http:///x.png")


def test_what_a_server_says_cannot_move_the_cursor(server: Server) -> None:
    server.answers["/odd"] = b"HTTP/1.1 404 \x1b[2J\x1b]0;owned\x07 gone\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(UnreadableImageError, match=r"the server answers 404 .*gone|cannot download") as caught:
        open_image(f"{server.url}/odd")
    assert str(caught.value).isprintable()


def test_long_names_are_shortened(tmp_path: Path) -> None:
    for source in (f"http://127.0.0.1:1/{'a' * 100_000}.png", "a" * 5000 + ".png", str(tmp_path / ("a" * 5000))):
        with pytest.raises(UnreadableImageError) as caught:
            open_image(source)
        assert len(str(caught.value)) < 500


def test_a_body_without_end_is_left(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", 1 << 20)

    def endless(connection: socket.socket, path: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not server.over.is_set():
            connection.sendall(b"a" * (1 << 16))

    server.answers["/endless"] = endless
    with pytest.raises(UnreadableImageError, match="it is larger than 1 MiB"):
        download(f"{server.url}/endless")
