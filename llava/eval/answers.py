"""A file of answers: its run key, then one JSON line an answer, appended as it comes. Killed and rerun, it goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from llava.eval.run_key import RunKey


class RunKeyMismatch(ValueError):
    """The file holds answers that were made with something else; the message says with what."""


class AnswerFile:
    """Answers of one task under one budget. Use as a context manager while appending."""

    def __init__(self, path: Path, key: RunKey) -> None:
        """Opens the file of an earlier run, or begins one.

        Args:
            path: The JSONL file.
            key: What this run's answers are made with.

        Raises:
            RunKeyMismatch: The file's answers were made with something else.
        """
        self.path = path
        self.key = key
        self.answers: dict[str, dict[str, Any]] = {}
        self._stream: TextIO | None = None
        if path.exists():
            self._read()

    def __enter__(self) -> AnswerFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self.path.open("a", encoding="utf-8")
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

    def finish(self, order: Sequence[str]) -> None:
        """Rewrites the file in the order of the samples, so that an interrupted run ends in the same bytes."""
        known = set(order)
        rows = [self.answers[i] for i in order if i in self.answers]
        rows += [row for sample_id, row in self.answers.items() if sample_id not in known]
        part = self.path.with_suffix(".part")
        lines = [{"run_key": self.key.to_json()}, *rows]
        part.write_text("".join(_line(row) for row in lines), encoding="utf-8")
        os.replace(part, self.path)

    def _write(self, row: dict[str, Any]) -> None:
        if self._stream is None:
            raise RuntimeError(f"{self.path} is not open: append answers inside `with`")
        self._stream.write(_line(row))
        self._stream.flush()

    def _read(self) -> None:
        whole = self.path.read_bytes()
        # A kill can leave a last line without its end: cut it off, its question is asked again.
        complete = whole[: whole.rfind(b"\n") + 1]
        if len(complete) < len(whole):
            with self.path.open("r+b") as stream:
                stream.truncate(len(complete))
        if not complete:
            return
        # Only "\n" ends a line: an answer may hold what else Unicode takes for one.
        header, *lines = complete.decode("utf-8").removesuffix("\n").split("\n")
        try:
            stored = json.loads(header)["run_key"]
            rows = [json.loads(line) for line in lines]
            self.answers = {row["question_id"]: row for row in rows if "error" not in row}
        except (ValueError, KeyError, TypeError) as error:
            raise RunKeyMismatch(f"{self.path} is not a file of answers ({error!r}); move it away") from None
        differences = self.key.differences(stored)
        if differences:
            raise RunKeyMismatch(
                f"{self.path} holds answers made otherwise ({'; '.join(differences)}); "
                "give another --output-dir, or remove the file"
            )


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
