"""Replies of a judge on disk, found by what was asked, so that no question is paid for twice."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from llava.eval.judge.client import Reply
from llava.eval.whole_files import json_lines, read_json_lines
from llava.plain_files import read_bytes


def cache_key(request: Mapping[str, Any], run: int, attempt: int) -> str:
    """A hash of a whole request (judge, messages, limits), the run of the judge, and the number of the attempt."""
    content = json.dumps({"request": dict(request), "run": run, "attempt": attempt}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


class JudgeCache:
    """A JSONL file of replies, one a line, appended as they come. Use as a context manager; threads may share it."""

    def __init__(self, path: Path) -> None:
        """Reads what an earlier run left.

        Args:
            path: The file; a last line that a kill cut short is dropped.

        Raises:
            ValueError: The file is something else.
        """
        self.path = path
        self._replies: dict[str, Reply] = {}
        self._stream: TextIO | None = None
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        if path.exists():
            self._read()
        self._earlier = set(self._replies)

    def __enter__(self) -> JudgeCache:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._stream is not None:
                self._stream.close()
                self._stream = None

    def reply(self, key: str, ask: Callable[[], Reply], is_good: Callable[[Reply], bool] | None = None) -> Reply:
        """The reply of that key; where there is none it is asked for, once however many threads want it.

        Args:
            key: What `cache_key` made.
            ask: Gets the reply; what it raises is passed on, and nothing is kept.
            is_good: A reply of an earlier run that is not good is asked for again; by default all are good.
        """
        with self._lock:
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:
            known = self._replies.get(key)
            is_old_and_bad = known is not None and key in self._earlier and is_good is not None and not is_good(known)
            if known is None or is_old_and_bad:
                known = ask()
                self._earlier.discard(key)
                self.put(key, known)
            return known

    def get(self, key: str) -> Reply | None:
        """The reply of that key, if there is one."""
        return self._replies.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Keeps a reply and flushes it; after the end of `with` it is kept in memory only."""
        line = json_lines([{"key": key, "model": reply.model, "reply": reply.text}])
        with self._lock:
            self._replies[key] = reply
            if self._stream is not None:
                self._stream.write(line)
                self._stream.flush()

    def _read(self) -> None:
        whole = read_bytes(self.path)
        complete = whole[: whole.rfind(b"\n") + 1]
        if len(complete) < len(whole):
            with self.path.open("r+b") as stream:
                stream.truncate(len(complete))
        try:
            for row in read_json_lines(complete.decode("utf-8")):
                self._replies[row["key"]] = Reply(row["reply"], row["model"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is not a judge's cache ({error!r}); move it away") from None
