"""Terminals that are not UTF-8, and words that are no text: no answer is lost, no turn undone, no traceback."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava.eval import run_llava
from llava.eval.command import main as evaluate
from llava.inference import Inference
from llava.serve import cli


def terminal(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)


def said(stream: io.TextIOWrapper) -> bytes:
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue()


@pytest.fixture
def words(oracle_dir: Path) -> list[str]:
    model = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--device", "cpu", "--temperature", "0"]
    return [*model, "--image-file", str(oracle_dir / "images" / "small.png"), "--max-new-tokens", "12"]


@pytest.fixture
def answer(oracle_dir: Path) -> str:
    inference = Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu")
    from llava.inference import GenerationOptions

    options = GenerationOptions(max_new_tokens=12)
    text = inference.ask_one("What is it?", oracle_dir / "images" / "small.png", options=options).text
    assert not text.isascii()
    return text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "utf-8"])
def test_an_answer_is_printed_with_replacement(
    encoding: str, words: list[str], answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = answer.encode(encoding, "replace")
    monkeypatch.setattr(sys, "stdout", terminal(encoding))
    assert run_llava.main([*words, "--query", "What is it?"]) == 0
    assert said(sys.stdout) == shown + b"\n"
    monkeypatch.setattr(sys, "stdout", terminal(encoding))
    args = run_llava.make_parser().parse_args([*words, "--query", "What is it?"])
    monkeypatch.setattr(sys, "stdout", terminal(encoding))  # a program's own, which is left as it is
    assert run_llava.eval_model(args) == answer and said(sys.stdout) == shown + b"\n"
    assert sys.stdout.errors == "strict"


@pytest.mark.parametrize("encoding", ["ascii", "gbk"])
def test_no_turn_of_a_chat_is_undone(
    encoding: str, words: list[str], answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", terminal(encoding))
    typed = io.BytesIO(b"What is it?\nCaf" + b"\xff\xff" + b" is?\nAnd then?\n\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(typed, encoding=encoding))
    assert cli.main([*words, "--debug"]) == 0
    first, bad, then, end = said(sys.stdout).decode(encoding).split("USER: ")[1:]
    assert answer.encode(encoding, "replace").decode(encoding)[:4] in first and "('What is it?', " in first
    assert "error: the text is not Unicode at character 3, '\\udcff'" in bad and "'messages': [('What is it?'" in bad
    assert "('And then?', " in then and "exit" in end


def test_a_bad_byte_in_a_question_is_an_error_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):  # a wrong flag, found before the model is read
        run_llava.main([*words, "--query", os.fsdecode(b"Caf\xff?")])
    assert "error: argument --query: " in capsys.readouterr().err


def test_the_list_of_tasks_is_printed_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal("ascii"))
    assert evaluate(["--list"]) == 0 and b"tiny_pope" in said(sys.stdout)


@pytest.mark.parametrize("main", [run_llava.main, cli.main, evaluate])
def test_a_nul_is_refused(main: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(main)
    with pytest.raises(SystemExit) as end:
        main(["--model-path", "a\0b"])
    assert end.value.code == 2
    assert "error: a NUL character in 'a\\x00b'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--temperature", "nan"], "temperature must be 0"),
        (["--temperature", "-1"], "temperature must be 0"),
        (["--temperature", "1e-320"], "too small to divide by; 0 is greedy"),
        (["--top-p", "nan"], "top_p must be above 0"),
        (["--top-p", "0"], "top_p must be above 0"),
        (["--max-new-tokens", "0"], "max_new_tokens must be at least 1"),
        (["--max-new-tokens", "-1"], "max_new_tokens must be at least 1"),
    ],
)
def test_wrong_numbers_are_refused_before_the_model_is_read(flags: list[str], message: str) -> None:
    for main, more in ((run_llava.main, ["--image-file", "x.png", "--query", "?"]), (cli.main, [])):
        with pytest.raises(SystemExit, match=f"^error: .*{message}"):
            main(["--model-path", "nowhere", *more, *flags])


def test_a_name_with_the_separator_in_it_is_told(words: list[str], tmp_path: Path) -> None:
    name = str(tmp_path / "a,b.png")
    with pytest.raises(SystemExit, match=r"--image-file .*a,b\.png' was split at ','; give another --sep"):
        run_llava.main([*words, "--query", "?", "--image-file", name])
    with pytest.raises(SystemExit, match="was split at ','") as end:
        run_llava.main([*words, "--query", "?", "--image-file", "http://me:s3cret@[::1/a,b.png"])
    assert "s3cret" not in str(end.value)
    with pytest.raises(SystemExit, match=r"^error: cannot read image .*a,b\.png: No such file or directory$"):
        run_llava.main([*words, "--query", "?", "--image-file", name, "--sep", ""])


@pytest.mark.slow
def test_the_c_locale(words: list[str], answer: str) -> None:
    """As a process: Python then chooses how it prints."""
    for more in ({"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        environment = os.environ | more
        command = [sys.executable, "-m", "llava.eval.run_llava", *words, "--query", "What is it?"]
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
        encoding = "ascii" if len(more) > 1 else "utf-8"
        assert done.stdout == answer.encode(encoding, "replace") + b"\n"
