"""Runs many command lines in one process, as `llava` would, and writes down what each did.

Started as a program with a file of cases, [{"id", "words", "keys"}], and a file to write to.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS = 20
MEMORY = 10 * 2**30  # the machine's own would be taken by an image of 65,000 x 65,000


class _TooLong(BaseException):
    """What no `except Exception` of a command catches."""


def _too_long(*_: object) -> None:
    raise _TooLong


@contextlib.contextmanager
def _streams(keys: str) -> Iterator[tuple[io.StringIO, io.StringIO]]:
    out, err, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.StringIO(keys)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield out, err
    finally:
        sys.stdin = before


def _files(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file under the folder."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            file = Path(folder, name)
            if file.is_file():
                found[str(file.relative_to(root))] = (file.stat().st_size, file.stat().st_mtime_ns)
    return found


def _run(words: list[str]) -> int:
    """As Python ends a program: the status, with a text for a status written to the error stream."""
    from llava.__main__ import main

    try:
        if words[0] == "train":  # `llava train` would hand this process over to a launcher
            words = ["llava.train.train", *words[1:]]
        if words[0].startswith("llava."):  # LLaVA's modules, which are no subcommands
            sys.argv = [f"python -m {words[0]}", *words[1:]]
            return importlib.import_module(words[0]).main() or 0
        return main(words)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except _TooLong:
        print(f"hang: not done after {SECONDS} s", file=sys.stderr)
        return 124
    except BaseException:
        traceback.print_exc()
        return 1


def run_cases(cases: list[dict[str, Any]], root: Path) -> Iterator[dict[str, Any]]:
    """Runs each case and yields its status, what it wrote to both streams, and the files it left under `root`."""
    signal.signal(signal.SIGALRM, _too_long)
    for case in cases:
        before, began = _files(root), time.monotonic()
        with _streams(case.get("keys", "")) as (out, err):
            handler = logging.StreamHandler(err)
            logging.getLogger().addHandler(handler)
            signal.alarm(SECONDS)
            try:
                status = _run(list(case["words"]))
            finally:
                signal.alarm(0)
                logging.getLogger().removeHandler(handler)
        after = _files(root)
        written = sorted(name for name, facts in after.items() if before.get(name) != facts)
        gone = sorted(before.keys() - after.keys())
        yield {
            "id": case["id"],
            "status": status,
            "stdout": out.getvalue()[-4000:],
            "stderr": err.getvalue()[-8000:],
            "changed": written + gone,
            "seconds": time.monotonic() - began,
        }


def main() -> None:
    """See the module."""
    for module in ("llava.inference", "llava.train.run", "llava.hub.export"):  # no case is to wait for these
        importlib.import_module(module)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    cases, root, written = (Path(word) for word in sys.argv[1:])
    with written.open("w", encoding="utf-8") as file:
        for result in run_cases(json.loads(cases.read_text()), root):
            file.write(json.dumps(result) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
