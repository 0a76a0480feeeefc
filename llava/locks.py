"""Locks among processes that share a disk, by `filelock`. A process that ends, even killed, holds none any more."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from filelock import lock_descriptor


class InUseError(Exception):
    """Another process has the file open for itself."""


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Lets one process at a time into what follows, among those that share a folder; the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        _lock(file, wait=True)
        yield


@contextmanager
def alone_in(root: Path) -> Iterator[None]:
    """Keeps a second preparation out of a root.

    Raises:
        ValueError: One is at work there.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".prepare").open("w") as file:
        if not _lock(file, wait=False):
            raise ValueError(f"{root}: another preparation is at work there")
        yield


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds a new file, so that others can tell what is at work from what was killed; see `is_held`."""
    with path.open("w", encoding="utf-8") as file:
        _lock(file, wait=True)
        yield


def is_held(path: Path) -> bool:
    """Whether a process that lives holds a file of `held`; a file that is not there is held by none."""
    if not path.is_file():
        return False
    with path.open("a", encoding="utf-8") as file:
        return not _lock(file, wait=False)


def open_alone(path: Path) -> TextIO:
    """Opens a file for appending and locks it until it is closed.

    Raises:
        InUseError: Another process has it open.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        stream = path.open("a", encoding="utf-8")
        try:
            if not _lock(stream, wait=False):
                raise InUseError(f"{path}: another process is answering this; let it end, or stop it")
            if path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                return stream
        except BaseException:
            stream.close()
            raise
        stream.close()  # between opening and locking it was replaced or removed: this is the old one


def _lock(stream: TextIO, *, wait: bool) -> bool:
    """Locks an open file if the disk has locks; False if another process holds it and `wait` is False."""
    try:
        return lock_descriptor(stream.fileno(), blocking=wait)
    except OSError as error:  # a network disk, say
        warnings.warn(f"{stream.name} cannot be locked ({error}): start no second command on it", stacklevel=3)
        return True
