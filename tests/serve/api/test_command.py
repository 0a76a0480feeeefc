"""The command `llava serve`: its flags, and mistakes in a line before a model is loaded."""

from __future__ import annotations

import socket
import sys

import pytest

from llava.serve.api.command import main, make_parser
from llava.serve.api.limits import Limits

MODEL = ["--model-path", "playground/tiny/model", "--device", "cpu"]


def test_what_it_does_unless_told_otherwise() -> None:
    args = make_parser().parse_args(["--model-path", "m"])
    assert (args.host, args.port, args.temperature, args.allow_private_urls) == ("127.0.0.1", 8000, 0.0, False)
    limits = Limits()
    assert (args.max_new_tokens, args.max_waiting, args.max_pixels) == (
        limits.new_tokens,
        limits.waiting,
        limits.pixels,
    )
    assert (args.max_body_mb << 20, args.max_image_mb << 20) == (limits.body_bytes, limits.image_bytes)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "70000"], "--port: at most 65535, got 70000"),
        (["--port", "x"], "--port: invalid"),
        (["--max-images", "0"], "must be at least 1"),
        (["--batch-size", "0"], "must be at least 1"),
    ],
)
def test_a_wrong_flag_is_told(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        make_parser().parse_args(["--model-path", "m", *flags])
    assert message in capsys.readouterr().err


def test_others_are_let_in_with_a_key_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAVA_API_KEY", raising=False)
    told = r"error: --host 0\.0\.0\.0 lets others in: set LLAVA_API_KEY, or say --without-key"
    with pytest.raises(SystemExit, match=told):
        main([*MODEL, "--host", "0.0.0.0"])


def test_a_port_that_is_taken_is_told_before_the_weights_are_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = rf"error: cannot listen at port {port} of 127\.0\.0\.1: Address already in use; see --host and --port$"
        with pytest.raises(SystemExit, match=told):
            main(["--model-path", "no-such-model", "--port", str(port)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model-path", "no-such-model"], "error: .*no-such-model"),
        ([*MODEL, "--compression", "visionzip:9999"], "error: .*9999"),
        ([*MODEL, "--temperature", "-1"], "error: temperature must be 0"),
        ([*MODEL, "--image-store", "nowhere"], "error: .*nowhere"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_a_line(
    flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit, match=message) as caught:
        main([*flags, "--port", "0"])
    assert "\n" not in str(caught.value).strip()


def test_without_its_packages_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(SystemExit, match=r"error: the server needs more packages: pip install .*\[serve\]"):
        main([*MODEL, "--port", "0"])
