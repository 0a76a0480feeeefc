"""What is being asked, on disk: a run after one that died knows at which question, and does not die there again.

A process that is killed by a question (a decoder that crashes, memory that runs out) can write nothing about it any
more. So the questions that are worked on are written beforehand. After a death they are suspects: asked last, each
alone. The one at which the process dies again is recorded, and counts as wrong with that reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

from llava.eval.whole_files import json_lines, write_whole
from llava.plain_files import read_utf8

_DEATHS = 2  # at the same question, the last time alone


class InFlight:
    """The file beside a file of answers. A context manager: what leaves it without dying leaves no question in flight.

    Attributes:
        path: The file: a line of deaths by question, then a line of questions for each time that others begin.
        deaths: How often a process has died at a question, by sample id.
        given_up: Those that are not asked any more.
    """

    def __init__(self, path: Path) -> None:
        """Reads what an earlier run has left; a file that is no such file is begun anew."""
        self.path = path
        self._stream: TextIO | None = None
        self.deaths: Counter[str] = Counter()
        self.given_up: set[str] = set()
        last = self._read()
        self.deaths.update(last)
        if len(last) == 1 and self.deaths[last[0]] >= _DEATHS:
            self.given_up.add(last[0])

    def __enter__(self) -> InFlight:
        self._write_counts()
        self._stream = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is None:
            return
        self._stream.close()
        self._stream = None
        if isinstance(error, Exception) and not isinstance(error, OSError):  # a full disk, say, is no question's fault
            return
        if error is None:
            self.deaths = Counter({name: self.deaths[name] for name in self.given_up})
        if self.deaths:
            self._write_counts()
        else:
            self.path.unlink(missing_ok=True)

    def begin(self, names: Sequence[str]) -> None:
        """Says which questions are worked on from now on."""
        if self._stream is not None:
            self._stream.write(json.dumps(names) + "\n")
            self._stream.flush()

    @property
    def reason(self) -> str:
        """Why a question is not asked any more."""
        return f"not asked, for the program has died at it {_DEATHS} times; to try it again, remove {self.path}"

    def _write_counts(self) -> None:
        write_whole(self.path, json_lines([{"deaths": dict(self.deaths), "given_up": sorted(self.given_up)}]))

    def _read(self) -> list[str]:
        """Fills the counts; returns the questions that were worked on last."""
        try:
            header, *lines = read_utf8(self.path).split("\n")[:-1]  # a line without its end is none
            counts = json.loads(header)
            self.deaths.update({str(name): int(count) for name, count in counts["deaths"].items()})
            self.given_up.update(map(str, counts["given_up"]))
            return [str(name) for name in json.loads(lines[-1])] if lines else []
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            self.deaths.clear()
            self.given_up.clear()
            return []
