"""Files that somebody named are read only if they are files: a pipe would be waited for, and a device has no end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


class NotAFileError(OSError):
    """A pipe, a socket or a device stands where a file should be."""


def expanded(path: str | Path) -> Path:
    """The path with `~` and `~user` replaced; of a user who is not there it stays as it is, and then names nothing."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 -- Path.expanduser raises RuntimeError


def check_is_file(path: str | os.PathLike[str]) -> None:
    """Looks at what a path names; nothing is opened.

    Raises:
        NotAFileError: It is a pipe, a socket or a device.
        OSError: It is not there, or a folder.
    """
    mode = os.stat(path).st_mode  # noqa: PTH116 -- it may be text with any characters
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise NotAFileError(f"{os.fspath(path)} is a pipe, a socket or a device, not a file")


def read_bytes(path: str | Path) -> bytes:
    """What a file holds; raises as `check_is_file`, or OSError if it cannot be read."""
    file = expanded(path)
    check_is_file(file)
    return file.read_bytes()


def read_utf8(path: str | Path) -> str:
    """A file's text, without a byte order mark.

    Raises:
        OSError: It is no file, or cannot be read.
        ValueError: It is not UTF-8; the message names it.
    """
    return as_text(path, read_bytes(path))


def as_text(path: str | Path, content: bytes) -> str:
    """The text that the bytes of a file are; raises as `read_utf8` does."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {content[error.start]:#04x} at byte {error.start}") from None
