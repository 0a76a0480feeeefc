"""`prepare.lock.json`: size and SHA-256 of every file at its first download, against which later ones are held."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from llava.data.subset import hash_file
from llava.json_text import parse_json

LOCK_NAME = "prepare.lock.json"
_SAVE_EVERY_S = 5.0


class ChangedFileError(ValueError):
    """A file is not the one that was recorded."""


class LockFile:
    """The record of a root. A copy of it pins another machine's download to the same bytes.

    An entry is `{url, size, sha256, mtime_ns}`, for an archive that was unpacked also `extracted`, the number of its
    files, and `last`, the one written last. A file is hashed again only if its time of change differs, or on demand.
    """

    def __init__(self, root: Path, *, verify: bool = False) -> None:
        """Reads the record, if there is one.

        Args:
            root: Its folder.
            verify: Hash every file, whatever its time of change.

        Raises:
            ValueError: The file is damaged.
        """
        self.root = root
        self.path = root / LOCK_NAME
        self.verify = verify
        self._mutex = threading.Lock()
        self._saved_at = time.monotonic()
        try:
            content = parse_json(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {"files": {}}
            self.files: dict[str, dict[str, Any]] = _checked(content["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is not a record of downloads ({error}); restore or delete it") from error

    def check(self, name: str, file: Path, url: str) -> None:
        """Compares a file with its entry, or makes one.

        Args:
            name: Its path relative to the root, where it lies or is to lie.
            file: Where it lies now.
            url: Where it is from.

        Raises:
            ChangedFileError: It differs from what was recorded.
        """
        status = file.stat()
        with self._mutex:
            entry = self.files.get(name)
        if entry is not None:
            if entry["size"] != status.st_size:
                raise self._changed(name, entry, f"{status.st_size:,} bytes", f"{entry['size']:,} bytes")
            if entry.get("mtime_ns") == status.st_mtime_ns and not self.verify:
                return
        digest = hash_file(file)
        if entry is not None and entry["sha256"] != digest:
            raise self._changed(name, entry, f"SHA-256 {digest}", f"SHA-256 {entry['sha256']}")
        self.update(name, {"url": url, "size": status.st_size, "sha256": digest, "mtime_ns": status.st_mtime_ns})

    def update(self, name: str, values: dict[str, Any]) -> None:
        """Sets values of an entry; they are on disk after `save`, or within some seconds of further updates."""
        with self._mutex:
            entry = self.files.setdefault(name, {})
            entry.update({key: value for key, value in values.items() if key != "url" or "url" not in entry})
            if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
                self._write()

    def last_of(self, name: str) -> str | None:
        """The file that came last out of an archive, None if it is not known to be unpacked."""
        with self._mutex:
            return self.files.get(name, {}).get("last")

    def is_unpacked(self, name: str, folder: Path) -> bool:
        """Whether an archive has been unpacked in a folder: here, as the record may be another machine's."""
        last = self.last_of(name)
        return last is not None and (folder / last).is_file()

    def save(self) -> None:
        """Writes the record, whole or not at all."""
        with self._mutex:
            self._write()

    def _write(self) -> None:
        partial = self.path.with_name(self.path.name + ".part")
        content = {"version": 1, "files": dict(sorted(self.files.items()))}
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)
        self._saved_at = time.monotonic()

    def _changed(self, name: str, entry: dict[str, Any], found: str, recorded: str) -> ChangedFileError:
        return ChangedFileError(
            f"{self.root / name}: has {found}, but {recorded} at its first download from {entry.get('url')} "
            f"({self.path}). Delete the file to have it downloaded again, or its entry in {LOCK_NAME} to accept it"
        )


def _checked(files: Any) -> dict[str, dict[str, Any]]:
    """The entries of a record, if they are such."""
    if not isinstance(files, dict):
        raise TypeError("`files` is no object")
    kinds: dict[str, Any] = {"size": int, "sha256": str, "last": str | None}
    for name, entry in files.items():
        if not isinstance(entry, dict):
            raise TypeError(f"the entry of {name} is no object")
        for key, kind in kinds.items():
            if not isinstance(entry.get(key), kind):
                raise TypeError(f"the entry of {name} has {key} = {entry.get(key)!r:.80}")
    return files
