"""The command `llava demo`: its flags, and mistakes in a line."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from PIL import Image

from llava.serve.demo import main, make_parser, read_examples
from llava.serve.web.events import Demo


def test_examples_are_the_first_pictures_of_a_folder_by_name(tmp_path: Path) -> None:
    for number in range(10):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{9 - number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    assert [name for name, _ in read_examples(tmp_path)] == [str(number) for number in range(8)]
    assert read_examples(None) == []


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        read_examples(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no picture in it"):
        read_examples(tmp_path)
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"a\.png"):
        read_examples(tmp_path)


def test_answers_are_greedy_and_nothing_is_shared_unless_asked() -> None:
    args = make_parser().parse_args(["--model-path", "m"])
    assert (args.temperature, args.share, args.port, args.max_upload_mb) == (0.0, False, None, 10)


def test_a_port_that_is_none_or_taken_is_told_in_a_line(demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason="the demo's extra `web` is not installed")
    from llava.serve.web.server import serve

    with pytest.raises(SystemExit, match="2"):
        make_parser().parse_args(["--model-path", "m", "--port", "70000"])
    assert "--port: at most 65535, got 70000" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} of 127.0.0.1 is taken; name another with --port"):
            serve(demo, host="127.0.0.1", port=port)


def test_without_gradio_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")
    with pytest.raises(SystemExit, match=r"error: the demo needs gradio: pip install 'llava-visionzip\[web\]'"):
        main(["--model-path", "m"])
