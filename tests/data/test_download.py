"""Downloads from a server that cuts connections, lies, and changes its files."""

import random
import threading
import time

import pytest

from llava.data.prepare.download import Downloader, DownloadError, Stopped, _NothingMore, _remote
from tests.data.http_server import serving

BODY = random.Random(0).randbytes(3_000_000)


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def fetch(tmp_path):
    """Fetches a URL; the bytes, and the sum that the progress bar saw."""

    def fetch(url, **settings):
        seen = []
        Downloader(**{"retries": 3, "timeout": 5.0, "wait": 0.001, **settings}).fetch(url, tmp_path / "f", seen.append)
        content = (tmp_path / "f").read_bytes()
        assert not (tmp_path / "f.json").exists()
        return content, sum(seen)

    return fetch


def test_cut_connections_are_gone_on_from(server, fetch):
    url = server.put("a", BODY, cuts=[1_000_000, 500_000, 10])
    assert fetch(url) == (BODY, len(BODY))
    ranges = [headers.get("Range") for headers in server.gets("a")]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-", "bytes=1500010-"]
    assert all(headers["If-Range"] == server.resources["a"].etag for headers in server.gets("a")[1:])


def test_a_cut_is_seen_where_no_length_is_told(server, fetch):
    url = server.put("a", BODY, chunked=True, cuts=[1_000_000, 0])
    assert fetch(url) == (BODY, len(BODY))
    assert [headers.get("Range") for headers in server.gets("a")] == [None, "bytes=1000000-", "bytes=1000000-"]
    assert fetch(server.put("b", BODY, chunked=True, ranges=False, cuts=[1_000_000])) == (BODY, len(BODY))


def test_progress_resets_the_count_of_failures(server, fetch):
    assert fetch(server.put("a", BODY, cuts=[100_000] * 20), retries=1)[0] == BODY


def test_a_server_without_ranges_is_asked_from_the_start(server, fetch):
    url = server.put("a", BODY, ranges=False, cuts=[1_000_000])
    assert fetch(url) == (BODY, len(BODY))


def test_an_earlier_part_is_kept(server, fetch, tmp_path):
    url = server.put("a", BODY, cuts=[2_000_000])
    with pytest.raises(DownloadError, match=r"ended after 2,000,000 of 3,000,000 bytes .*given up after 1"):
        fetch(url, retries=0)
    assert fetch(url) == (BODY, len(BODY))
    assert server.gets("a")[-1]["Range"] == "bytes=2000000-"


def test_two_versions_are_never_joined(server, fetch):
    url = server.put("a", BODY, cuts=[1_000_000])
    with pytest.raises(DownloadError):
        fetch(url, retries=0)
    changed = BODY[::-1]
    server.put("a", changed)
    assert fetch(url)[0] == changed


@pytest.mark.parametrize("size", [len(BODY), len(BODY) - 7])
def test_a_changed_file_is_seen_where_if_range_is_ignored(server, fetch, size, monkeypatch):
    url = server.put("a", BODY, cuts=[1_000_000])
    with pytest.raises(DownloadError):
        fetch(url, retries=0)
    changed = BODY[::-1][:size]
    server.put("a", changed)
    monkeypatch.setattr("llava.data.prepare.download.Remote.validator", None)
    assert fetch(url)[0] == changed


def test_a_part_of_unknown_origin_is_not_built_on(server, fetch, tmp_path):
    (tmp_path / "f").write_bytes(b"something else")
    assert fetch(server.put("a", BODY))[0] == BODY


def test_a_part_that_was_complete_needs_no_request(server, fetch, tmp_path):
    url = server.put("a", BODY, cuts=[2_999_999])
    with pytest.raises(DownloadError):
        fetch(url, retries=0)
    (tmp_path / "f").write_bytes(BODY)
    assert fetch(url)[0] == BODY
    assert len(server.gets("a")) == 1


def test_a_length_that_is_too_large_is_survived_if_ranges_tell_the_truth(server, fetch):
    assert fetch(server.put("a", BODY, claimed=len(BODY) + 500))[0] == BODY
    url = server.put("b", BODY, claimed=len(BODY) + 500, ranges=False)
    with pytest.raises(DownloadError, match=r"ended after 3,000,000 of 3,000,500 bytes .*given up after 2"):
        fetch(url, retries=1)


def test_errors_of_the_server_are_waited_out_and_missing_files_are_not(server, fetch):
    assert fetch(server.put("a", BODY, statuses=[503, 500, 429]))[0] == BODY
    with pytest.raises(DownloadError, match=r"HTTP 404 Not Found$") as caught:
        fetch(f"{server.url}/none")
    assert caught.value.url == f"{server.url}/none" and len(server.gets("none")) == 1
    with pytest.raises(DownloadError, match=r"HTTP 503 .*given up after 3 attempts"):
        fetch(server.put("b", BODY, statuses=[503] * 9), retries=2)


def test_silence_is_a_failure(server, fetch):
    url = server.put("a", BODY, seconds_a_chunk=1.0)
    with pytest.raises(DownloadError, match="timed out"):
        fetch(url, timeout=0.2, retries=0)


def test_only_the_web_is_read(fetch, tmp_path):
    (tmp_path / "secret").write_text("s")
    for url in (f"file://{tmp_path}/secret", "", "ftp://a/b"):
        with pytest.raises(DownloadError, match="not an http"):
            fetch(url)


def test_nobody_at_home(fetch):
    with pytest.raises(DownloadError, match="no connection"):
        fetch("http://127.0.0.1:9/a", retries=1)


def test_sizes_are_known_beforehand(server):
    assert Downloader(wait=0.001).size_of(server.put("a", BODY)) == len(BODY)
    with pytest.raises(DownloadError, match="404"):
        Downloader(wait=0.001).size_of(f"{server.url}/none")


def test_a_download_can_be_stopped(server, tmp_path):
    downloader = Downloader(timeout=5.0)
    url = server.put("a", BODY, seconds_a_chunk=0.05)
    threading.Timer(0.2, downloader.stopped.set).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        downloader.fetch(url, tmp_path / "f")
    assert time.monotonic() - started < 2


def test_a_digit_that_is_no_number_is_no_number():
    class Response:
        status, headers = 200, {"Content-Length": "\u00b2"}

    assert _remote("http://a", Response()).size is None
    assert _NothingMore("bytes */\u00b2").total is None
