"""The small files of a checkpoint: JSON and texts, read within bounds and checked, and what a damaged one is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llava.entry_types import wrong_entry
from llava.json_text import parse_json

_LARGEST = 256 * 2**20  # a tokenizer.json of a large vocabulary has 30
_POINTER = b"version https://git-lfs"


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded as asked; the message names the folder and what is wrong with it."""


class MissingFileError(CheckpointError, FileNotFoundError):
    """A checkpoint lacks a file that is needed."""


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object, whose entries are as `llava.entry_types` says of a file of that name.

    Raises:
        CheckpointError: The file is missing, damaged or too large, or an entry is not what it must be.
    """
    text = read_text(file)
    try:
        content = parse_json(text)
    except ValueError as error:  # a number of thousands of digits is one, too
        raise CheckpointError(f"{file}: not valid JSON: {error}{_where_cut(text)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not an object")
    problem = wrong_entry(file.name, content)
    if problem is not None:
        raise CheckpointError(f"{file}: {problem}")
    return content


def optional_json(folder: Path, name: str) -> dict[str, Any]:
    """The entries of a folder's file; none if it is not there.

    Raises:
        CheckpointError: As `read_json`.
    """
    return read_json(folder / name) if (folder / name).exists() else {}


def read_text(file: Path) -> str:
    """Reads a text.

    Raises:
        CheckpointError: The file is missing, no file, too large, a git-lfs pointer, or not UTF-8.
    """
    check_content(file)
    try:
        size = file.stat().st_size
        if size > _LARGEST:
            raise CheckpointError(f"{file}: has {size:,} bytes, and {_LARGEST:,} are the most that are read")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: not UTF-8: byte {error.start} is {error.object[error.start]:#04x}") from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error


def check_content(file: Path) -> None:
    """Looks at a file's first bytes, whatever it holds.

    Raises:
        CheckpointError: It is missing, no file, empty, or a git-lfs pointer in place of the file.
    """
    if not file.exists():
        raise MissingFileError(f"{file.parent}: there is no {file.name}")
    if not file.is_file():
        raise CheckpointError(f"{file}: is no file")
    try:
        with file.open("rb") as stream:
            first = stream.read(len(_POINTER))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error
    if first == _POINTER:
        raise CheckpointError(f"{file}: a git-lfs pointer, not the file itself; run git lfs pull")
    if not first:
        raise CheckpointError(f"{file}: is empty; was its download cut off?")


def _where_cut(text: str) -> str:
    """A hint where a file ends too soon."""
    return "" if text.rstrip().endswith("}") else ". Was its download cut off?"


__all__ = ["CheckpointError", "MissingFileError", "check_content", "optional_json", "read_json", "read_text"]
