"""Files of answers: a run key, then one JSON line an answer, appended as it comes. Killed and rerun, it goes on.

Several processes write a shard each, beside the one file that they are merged into.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from llava.eval.answers_key import AnswersKey
from llava.eval.whole_files import json_lines, read_json_lines, write_whole
from llava.locks import open_alone
from llava.plain_files import as_text, read_bytes

AnswerRow = dict[str, Any]


class AnswersKeyMismatch(ValueError):
    """The file holds answers that were made with something else; the message says with what."""


class AnswerFile:
    """Answers of one task under one budget. Use as a context manager while appending.

    Attributes:
        answers: The rows, by sample.
        errors: Why a sample has no answer, by sample; only shards keep them.
    """

    def __init__(self, path: Path, key: AnswersKey) -> None:
        """Opens the file of an earlier run, or begins one.

        Args:
            path: The JSONL file.
            key: What this run's answers are made with.

        Raises:
            AnswersKeyMismatch: The file's answers were made with something else.
        """
        self.path = path
        self.key = key
        self._stream: TextIO | None = None
        self.answers, self.errors = read_answers(path, key)

    def __enter__(self) -> AnswerFile:
        """Opens the file for this process alone.

        Raises:
            InUseError: Another process has it open.
        """
        self._stream = open_alone(self.path)
        _cut_unfinished_line(self.path)
        if self.path.stat().st_size == 0:
            self._write({"run_key": self.key.to_json()})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def append(self, sample_id: str, text: str, **more: Any) -> None:
        """Writes one answer and flushes it."""
        row = {"question_id": sample_id, "text": text, **more}
        self.answers[sample_id] = row
        self._write(row)

    def append_error(self, sample_id: str, reason: str) -> None:
        """Writes why a sample could not be asked."""
        self.errors[sample_id] = reason
        self._write({"question_id": sample_id, "error": reason})

    def finish(self, order: Sequence[str]) -> None:
        """Rewrites the file in the order of the samples, errors left out: an interrupted run ends in the same bytes."""
        known = set(order)
        rows = [self.answers[i] for i in order if i in self.answers]
        rows += [row for sample_id, row in self.answers.items() if sample_id not in known]
        self.errors = {}
        write_whole(self.path, json_lines([{"run_key": self.key.to_json()}, *rows]))

    def _write(self, row: AnswerRow) -> None:
        if self._stream is None:
            raise RuntimeError(f"{self.path} is not open: append answers inside `with`")
        self._stream.write(json_lines([row]))
        self._stream.flush()


def read_answers(path: Path, key: AnswersKey) -> tuple[dict[str, AnswerRow], dict[str, str]]:
    """Answers and errors of a file, which another process may be writing; a line without its end is not read.

    Raises:
        AnswersKeyMismatch: The file's answers were made with something else, or it is not a file of answers.
    """
    whole = read_bytes(path) if path.exists() else b""
    complete = whole[: whole.rfind(b"\n") + 1]
    if not complete:
        return {}, {}
    try:
        stored, answers, errors = parse_answers(as_text(path, complete))
    except ValueError as error:
        raise AnswersKeyMismatch(f"{path} is not a file of answers ({error}); move it away") from None
    differences = key.differences(stored)
    if differences:
        raise AnswersKeyMismatch(
            f"{path} holds answers made otherwise ({'; '.join(differences)}); "
            "give another --output-dir, or remove the file"
        )
    return answers, {sample_id: reason for sample_id, reason in errors.items() if sample_id not in answers}


def parse_answers(text: str) -> tuple[dict[str, Any], dict[str, AnswerRow], dict[str, str]]:
    """The run key, the answers and the errors that a file's text holds, by sample.

    Raises:
        ValueError: A line is not JSON, lacks a field or has a value of another type; says which line.
    """
    header, *rows = read_json_lines(text) or [None]
    key = header.get("run_key") if isinstance(header, dict) else None
    if not isinstance(key, dict):
        raise ValueError("line 1: there is no run_key")
    for number, row in enumerate(rows, start=2):
        named = row if isinstance(row, dict) else {}
        for name in ("question_id", "error" if "error" in named else "text"):
            if not isinstance(named.get(name), str):
                raise ValueError(f"line {number}: {name} is {named.get(name)!r:.60}, which is not text")
        visual = named.get("visual_tokens", 0)
        if not isinstance(visual, int | float) or not math.isfinite(visual):
            raise ValueError(f"line {number}: visual_tokens is {named['visual_tokens']!r:.60}, which is no number")
    answers = {row["question_id"]: row for row in rows if "error" not in row}
    return key, answers, {row["question_id"]: row["error"] for row in rows if "error" in row}


@dataclass(frozen=True)
class AnswerStore:
    """The file of answers of one task under one budget, and the shards on the way to it.

    Attributes:
        path: The file; shards are in a folder of its name that ends in `.shards`.
        key: What the answers are made with.
    """

    path: Path
    key: AnswersKey

    @property
    def shards(self) -> list[Path]:
        """Shards that are there, of this run or another."""
        return sorted(self.path.with_suffix(".shards").glob("*.jsonl"))

    def shard(self, rank: int, count: int) -> AnswerFile:
        """The shard of one of several processes; its errors are dropped, so that they are tried again.

        Raises:
            InUseError: Another process has it open.
        """
        path = self.path.with_suffix(".shards") / f"{rank}-of-{count}.jsonl"
        if not path.exists():
            return AnswerFile(path, self.key)
        with open_alone(path):
            file = AnswerFile(path, self.key)
            if file.errors:
                file.finish(list(file.answers))
        return file

    def known(self) -> tuple[dict[str, AnswerRow], dict[str, str]]:
        """All answers, and the errors of samples that have none.

        Raises:
            AnswersKeyMismatch: A file's answers were made with something else.
        """
        answers: dict[str, AnswerRow] = {}
        errors: dict[str, str] = {}
        for path in (*self.shards, self.path):
            more, failed = read_answers(path, self.key)
            answers |= more
            errors |= failed
        return answers, {sample_id: reason for sample_id, reason in errors.items() if sample_id not in answers}

    def merge(self, order: Sequence[str], *, keep_errors: bool = False) -> None:
        """Puts all answers into the one file and removes the shards.

        Args:
            order: Ids of the task's samples.
            keep_errors: Leave shards that hold errors.

        Raises:
            InUseError: Another process has one of the files open: what it still appends would be lost.
        """
        with ExitStack() as held:
            for path in (*self.shards, self.path):
                held.enter_context(open_alone(path))
            answers, errors = self.known()
            file = AnswerFile(self.path, self.key)
            file.answers = answers
            file.finish(order)
            for shard in self.shards:
                if not (keep_errors and set(read_answers(shard, self.key)[1]) & set(errors)):
                    shard.unlink(missing_ok=True)
        folder = self.path.with_suffix(".shards")
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _cut_unfinished_line(path: Path) -> None:
    """A kill can leave a last line without its end: its question is asked again."""
    whole = read_bytes(path)
    complete = whole.rfind(b"\n") + 1
    if complete < len(whole):
        with path.open("r+b") as stream:
            stream.truncate(complete)
