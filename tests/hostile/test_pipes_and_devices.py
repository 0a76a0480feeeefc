"""Where a file is asked for, a pipe or a device is an error in a line: a pipe would be waited for without end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from llava.eval import eval_textvqa, model_vqa, model_vqa_mmbench, model_vqa_science
from llava.eval.answers import read_answers
from llava.eval.answers_key import AnswersKey
from llava.eval.report import command as report
from llava.eval.tasks import TaskDataError
from llava.eval.tasks.local_files import read_json
from llava.eval.tasks.own_file import open_own_file
from llava.plain_files import NotAFileError, check_is_file, expanded, read_utf8

KEY = AnswersKey("tiny_vqa", "m", None, "v1", "p", {"max_new_tokens": 4}, "float32")


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    os.mkfifo(tmp_path / "results.json")
    signal.alarm(30)  # ends a test that waits
    yield tmp_path / "results.json"
    signal.alarm(0)


@pytest.mark.parametrize("main", [model_vqa.main, model_vqa_science.main, model_vqa_mmbench.main])
def test_a_question_file_that_is_a_pipe(main: Callable[[Sequence[str]], int], pipe: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: .*results\.json.* is a pipe, a socket or a device"):
        main(["--model-path", "x", "--question-file", str(pipe)])


@pytest.mark.parametrize("named", ["--annotation-file", "--result-file"])
def test_files_of_textvqa_that_are_pipes(named: str, pipe: Path, tmp_path: Path) -> None:
    other = tmp_path / "good.json"
    other.write_text('{"data": []}')
    flags = {"--annotation-file": str(other), "--result-file": str(other)} | {named: str(pipe)}
    with pytest.raises(SystemExit, match=r"error: .*results\.json is a pipe"):
        eval_textvqa.main([word for pair in flags.items() for word in pair])


def test_files_of_benchmarks_answers_and_reports_that_are_pipes(pipe: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskDataError, match=r"results\.json is a pipe"):
        read_json(pipe)
    with pytest.raises(TaskDataError, match=r"results\.json is a pipe"):
        open_own_file(pipe)
    with pytest.raises(NotAFileError, match=r"results\.json is a pipe"):
        read_answers(pipe, KEY)
    with pytest.raises(SystemExit, match=r"error: .*results\.json is not a file"):
        report.main([str(tmp_path)])


def test_a_device_is_not_read() -> None:
    with pytest.raises(NotAFileError, match="/dev/zero is a pipe, a socket or a device, not a file"):
        read_utf8("/dev/zero")


def test_folders_and_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        check_is_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        check_is_file(tmp_path / "nothing")


def test_the_home_of_nobody_is_a_path_that_is_not_there() -> None:
    assert expanded("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
    assert expanded("~/x") == Path.home() / "x"
    with pytest.raises(SystemExit, match=r"error: .*~nobody-of-that-name"):
        model_vqa.main(["--model-path", "x", "--question-file", "~nobody-of-that-name/q.jsonl"])
