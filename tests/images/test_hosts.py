"""Which addresses are of the open internet, and that the one which was checked is the one which is asked."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from llava.images.download import download
from llava.images.hosts import PrivateAddressError, is_public, names_private, public_addresses
from llava.images.source import UnreadableImageError, fetch_image
from tests.images.test_download import Server, picture, server, whole

__all__ = ["server"]

PUBLIC = "93.184.216.34"


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.9.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
        ),
        *("224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:7f00:1", "::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::1"),
        *("2002:7f00:1::", "2002:a00:1::1", "2001:0:53aa:64c::1"),
    ],
)
def test_private_addresses_however_they_are_written(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", [PUBLIC, "8.8.8.8", "2606:2800:220:1::1", f"::ffff:{PUBLIC}", "64:ff9b::8.8.8.8", "2a00:1450:4001::64"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address) and not names_private(address)


def test_names() -> None:
    assert names_private("localhost") and names_private("LOCALHOST.") and names_private("a.localhost")
    assert (
        names_private("127.0.0.1") and not names_private("example.com") and not names_private("localhost.example.com")
    )


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "localhost", "0"])
def test_other_ways_to_write_this_machine_are_looked_up_and_refused(host: str) -> None:
    with pytest.raises(PrivateAddressError):
        public_addresses(host, 80)
    with pytest.raises(UnreadableImageError, match=r"leads to a private address|Invalid IPv4 address: '0177"):
        download(f"http://{host}/a.png", public_only=True)


class Names:
    """Looks names up as told, each time the next answer; everything else as the system does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: list[list[str]]) -> None:
        self.asked: list[str] = []
        self._answers = {name.replace("_", ".") + ".example": list(each) for name, each in answers.items()}
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: Any, *words: Any, **options: Any) -> Any:
        if host not in self._answers:
            return self._real(host, *words, **options)
        self.asked.append(host)
        return [entry for each in self._answers[host].pop(0) for entry in self._real(each, *words, **options)]


def test_the_address_that_was_checked_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads elsewhere the second time. The request goes to a proxy, which shows where it would go."""
    monkeypatch.setenv("http_proxy", server.url)
    names = Names(monkeypatch, rebinds=[[PUBLIC], ["127.0.0.1"]])
    server.answers[f"http://{PUBLIC}/a.png"] = whole(picture())
    assert download("http://rebinds.example/a.png", public_only=True).name == "http://rebinds.example/a.png"
    assert names.asked == ["rebinds.example"], "it is looked up once"
    [request] = server.requests
    assert request.startswith(f"GET http://{PUBLIC}/a.png ") and "host: rebinds.example\r\n" in request.lower()


def test_a_name_that_leads_to_a_private_address_too_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, mixed=[[PUBLIC, "10.0.0.1"]], mapped=[["::ffff:127.0.0.1"]])
    for name in ("mixed", "mapped"):
        with pytest.raises(UnreadableImageError, match="leads to a private address"):
            download(f"http://{name}.example:{server.port}/a.png", public_only=True)
    assert not server.requests, "nobody was asked"


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/a.png", "//inner.example/a.png", "http://[::1]/a.png"])
def test_each_redirect_is_checked(target: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    Names(monkeypatch, outer=[[PUBLIC]], inner=[["192.168.0.7"]])
    location = f"Location: {target.format(port=server.port)}"
    server.answers[f"http://{PUBLIC}/r"] = whole(b"", location, status="302 Found")
    with pytest.raises(UnreadableImageError, match="leads to a private address"):
        download("http://outer.example/r", public_only=True)
    assert len(server.requests) == 1


def test_a_redirect_within_a_site_keeps_its_name(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    names = Names(monkeypatch, outer=[[PUBLIC], [PUBLIC]])
    server.answers[f"http://{PUBLIC}/r"] = whole(b"", "Location: a.png", status="302 Found")
    server.answers[f"http://{PUBLIC}/a.png"] = whole(picture())
    download("http://outer.example/r", public_only=True)
    assert names.asked == ["outer.example"] * 2
    assert "host: outer.example" in server.requests[-1].lower()


def test_another_address_of_the_name_is_tried(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is public is told otherwise here, for only this machine can be asked in a test."""
    monkeypatch.setattr("llava.images.hosts.is_public", lambda address: True)
    monkeypatch.setattr("llava.images.download.is_public", lambda address: True)
    Names(monkeypatch, several=[["127.0.0.9", "127.0.0.1"]])
    download(f"http://several.example:{server.port}/a.png", public_only=True)
    assert f"host: several.example:{server.port}" in server.requests[-1].lower()


def test_a_limit_of_bytes_is_kept(server: Server) -> None:
    server.answers["/b"] = whole(b"a" * 2**21)
    with pytest.raises(UnreadableImageError, match="it is larger than 1 MiB"):
        download(f"{server.url}/b", max_bytes=2**20)
    assert len(download(f"{server.url}/b", max_bytes=2**21)) == 2**21


def test_an_image_is_fetched_by_the_same_rule(server: Server) -> None:
    assert fetch_image(f"{server.url}/a.png")
    with pytest.raises(UnreadableImageError, match="--allow-private-urls"):
        fetch_image(f"{server.url}/a.png", public_only=True)
