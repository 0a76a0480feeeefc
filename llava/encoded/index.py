"""Which images a store holds, and where: lines of JSON beside each shard.

A shard `NAME.safetensors` counts once `NAME.jsonl` is there, which is written after it and renamed into place whole; a
file of either kind never changes. The lines of an index are of four sorts, told by their entries:

    {"shard", "rows", "bytes", "rounding"}               the shard itself, once
    {"content", "size", "grid", "tiles", "K", "shard", "row"}    an image: its rows begin at `row`
    {"content", "problem"}                               an image of which there are no rows
    {"path", "bytes", "mtime_ns", "content"}             a file that has this content

`content` is the SHA-256 of an image's file, so equal pictures are stored once. A path is known by its size and time of
change, so that known images are not opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llava.encoded.errors import StoreError
from llava.encoded.rows import Rounding

SHARD_SUFFIX = ".safetensors"
INDEX_SUFFIX = ".jsonl"


class FileStamp(NamedTuple):
    """What recognises an unchanged image without opening it.

    Attributes:
        path: Absolute, since folders of different data sets name different images alike; in a table, file and row.
        num_bytes: Of the file or table; -1 if it is missing.
        mtime_ns: Time of change.
    """

    path: str
    num_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """The stamp of a file, there or not."""
        if not path.is_file():
            return cls(str(path.absolute()), -1, 0)
        found = path.stat()
        return cls(str(path.absolute()), found.st_size, found.st_mtime_ns)

    @property
    def is_gone(self) -> bool:
        """Whether there was no file."""
        return self.num_bytes < 0


class Entry(NamedTuple):
    """An image in a store.

    Attributes:
        content: SHA-256 of its file.
        size: (w, h) before any resizing.
        grid: (h, w) of the patches of a tile.
        tiles: T.
        tokens: K: rows a tile, or at the stage `projected` rows in all.
        shard: The file that holds it; empty if there is a problem.
        row: The first of its rows there.
        problem: Why there are no rows of it, empty if there are.
    """

    content: str
    size: tuple[int, int] = (0, 0)
    grid: tuple[int, int] = (0, 0)
    tiles: int = 0
    tokens: int = 0
    shard: str = ""
    row: int = 0
    problem: str = ""

    def to_line(self) -> dict[str, Any]:
        """Its line in an index."""
        if self.problem:
            return {"content": self.content, "problem": self.problem}
        return {
            "content": self.content,
            "size": list(self.size),
            "grid": list(self.grid),
            "tiles": self.tiles,
            "K": self.tokens,
            "shard": self.shard,
            "row": self.row,
        }

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Entry:
        """Reads what `to_line` gave; raises KeyError, TypeError or ValueError where it is something else."""
        if "problem" in line:
            return cls(str(line["content"]), problem=str(line["problem"]))
        (width, height), (rows, columns) = line["size"], line["grid"]
        where = int(line["tiles"]), int(line["K"]), str(line["shard"]), int(line["row"])
        return cls(str(line["content"]), (width, height), (rows, columns), *where)


class ShardFacts(NamedTuple):
    """A shard.

    Attributes:
        rows: In it.
        num_bytes: Of its file.
        rounding: Of its rows.
    """

    rows: int
    num_bytes: int
    rounding: Rounding

    def to_line(self, shard: str) -> dict[str, Any]:
        """Its line in the index of a shard of that name."""
        return {"shard": shard, "rows": self.rows, "bytes": self.num_bytes, "rounding": self.rounding.to_json()}


class StoreIndex:
    """All indexes of a folder.

    Attributes:
        folder: Of the store.
        contents: Images, by content.
        shards: By the name of their file.
    """

    def __init__(self, folder: Path) -> None:
        """Reads what is there; raises as `refresh`."""
        self.folder = folder
        self.contents: dict[str, Entry] = {}
        self.shards: dict[str, ShardFacts] = {}
        self._read: set[str] = set()
        self._stamps: dict[FileStamp, str] = {}
        self._names: dict[str, set[str]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads what was added since, by other processes too.

        Raises:
            StoreError: An index or a shard is damaged; the message says which files to delete.
        """
        for file in sorted(self.folder.glob(f"*{INDEX_SUFFIX}")):
            if file.name not in self._read:
                self._add(file)
                self._read.add(file.name)

    def _add(self, file: Path) -> None:
        try:
            for line in _lines(file):
                self._take(line)
        except (ValueError, KeyError, TypeError) as error:
            both = f"{file.name} and {file.with_suffix(SHARD_SUFFIX).name}"
            raise StoreError(
                f"{self.folder}: {file.name} is damaged ({type(error).__name__}: {error}); delete {both}, and build "
                "again what they held"
            ) from error

    def _take(self, line: dict[str, Any]) -> None:
        if "path" in line:
            stamp = FileStamp(str(line["path"]), int(line["bytes"]), int(line["mtime_ns"]))
            self._know(stamp, str(line["content"]))
        elif "content" in line:
            entry = Entry.from_line(line)
            self.contents[entry.content] = entry
        else:
            name = str(line["shard"])
            facts = ShardFacts(int(line["rows"]), int(line["bytes"]), Rounding.from_json(line["rounding"]))
            path = self.folder / name
            found = path.stat().st_size if Path(name).name == name and path.is_file() else -1
            if found != facts.num_bytes:
                there = "is not there" if found < 0 else f"has {found} bytes"
                raise ValueError(f"{name} {there}, and should have {facts.num_bytes}")
            self.shards[name] = facts

    def _know(self, stamp: FileStamp, content: str) -> None:
        self._stamps[stamp] = content
        self._names.setdefault(stamp.path, set()).add(content)

    def find(self, stamp: FileStamp) -> Entry | None:
        """The image of a file; of one that is gone only if a single content was ever seen at its path."""
        if stamp.is_gone:
            known = self._names.get(stamp.path, set()) & self.contents.keys()
            return self.contents[next(iter(known))] if len(known) == 1 else None
        content = self._stamps.get(stamp)
        return None if content is None else self.contents.get(content)

    def content_of(self, stamp: FileStamp) -> str | None:
        """What is known to be in a file, whether or not it is stored."""
        return self._stamps.get(stamp)

    def lacks(self, stamps: Mapping[str, FileStamp]) -> list[str]:
        """The names of files that are not in the store, or have changed since.

        Args:
            stamps: By name.
        """
        return [name for name, stamp in stamps.items() if self.find(stamp) is None]


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for text in file.read_bytes().splitlines():
        line = json.loads(text)
        if not isinstance(line, dict):
            raise TypeError(f"{line!r:.80} is no object")
        yield line
