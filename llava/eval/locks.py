"""Locks among processes that share a disk. A process that ends, even killed, holds none any more."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # a system without them
    fcntl = None  # type: ignore[assignment]


class InUseError(Exception):
    """Another process has the file open for itself."""


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Lets one process at a time into what follows, among those that share a folder; the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        _lock(file, wait=True)
        yield


def open_alone(path: Path) -> TextIO:
    """Opens a file for appending, which no other process can do in this way until it is closed.

    Raises:
        InUseError: Another process has it open.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        stream = path.open("a", encoding="utf-8")
        try:
            _lock(stream, wait=False)
            if path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                return stream
        except BaseException:
            stream.close()
            raise
        stream.close()  # between opening and locking it was replaced or removed: this is the old one


def _lock(stream: TextIO, *, wait: bool) -> None:
    """Locks an open file, where the disk can.

    Raises:
        InUseError: Another process has it locked, and is not to be waited for.
    """
    try:
        if fcntl is None:
            raise OSError("this system has no file locks")
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise InUseError(f"{stream.name}: another process is answering this; let it end, or stop it") from None
    except OSError as error:  # a network disk, say
        warnings.warn(f"{stream.name} cannot be locked ({error}): start no second command on it", stacklevel=3)
