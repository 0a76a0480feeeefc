"""Vision tokens on disk: what a frozen tower and compressor make of an image is computed once.

A folder holds `key.json`, which says what made the tokens, and a pair of files for each process that wrote: raw
numbers in `*.bin`, and `*.jsonl`, whose lines say what lies where. No file is written by two processes, and none is
written again later. A line is written after its numbers are on the disk; what a crash leaves of a line is ignored.

Images are known by the SHA-256 of their files, so equal pictures are stored once; a path by its size and time of
change, so that known images are not opened. An entry holds T * K * C numbers of the key's dtype, then, if the tokens
are compressed, T * K positions (int16). Shapes: T tiles of an image, K tokens a tile, C channels.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from llava.model.vision_tokens import VisionTokens

KEY_NAME = "key.json"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class CacheError(ValueError):
    """The cache cannot be used; the message names its folder."""


class CacheKeyError(CacheError):
    """The folder holds tokens that something else made; the message says what differs."""


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


@dataclass(frozen=True)
class Entry:
    """An image in the cache.

    Attributes:
        file: Stem of the pair of files that holds it.
        offset: Bytes before it.
        tiles: T.
        size: (w, h) of the image before any resizing.
        problem: Why there are no tokens of it, empty if there are.
    """

    file: str = ""
    offset: int = 0
    tiles: int = 0
    size: tuple[int, int] = (0, 0)
    problem: str = ""


@dataclass(frozen=True)
class TokenFormat:
    """How the tokens of a tile are stored.

    Attributes:
        num_tokens: K.
        channels: C.
        dtype: float32, bfloat16 or float16.
        num_dominant: Of compressed tokens; 0 without compression.
        several_tiles: Whether images have tiles that are laid out; else each is a single one.
    """

    num_tokens: int
    channels: int
    dtype: str
    num_dominant: int
    several_tiles: bool

    @property
    def bytes_per_tile(self) -> int:
        """Of an entry."""
        numbers = self.num_tokens * self.channels * _DTYPES[self.dtype].itemsize
        return numbers + (2 * self.num_tokens if self.num_dominant else 0)

    def encode(self, seen: VisionTokens) -> bytes:
        """The bytes of an image."""
        numbers = seen.tokens.detach().to("cpu", _DTYPES[self.dtype]).contiguous().view(torch.uint8)
        stored = numbers.numpy().tobytes()
        return stored if seen.positions is None else stored + seen.positions.to("cpu", torch.int16).numpy().tobytes()

    def decode(self, stored: np.ndarray, tiles: int) -> VisionTokens:
        """The image of (bytes,), uint8."""
        shape = (tiles, self.num_tokens)
        raw = torch.from_numpy(stored.copy())  # a memory map cannot be written, and tensors can
        end = len(stored) - (2 * tiles * self.num_tokens if self.num_dominant else 0)
        tokens = raw[:end].view(_DTYPES[self.dtype]).view(*shape, self.channels)
        positions = raw[end:].clone().view(torch.int16).view(shape) if self.num_dominant else None
        return VisionTokens(tokens, [tiles] if self.several_tiles else None, positions, self.num_dominant)


class FeatureCache:
    """A folder of vision tokens."""

    def __init__(self, folder: str | Path, key: Mapping[str, Any], layout: TokenFormat) -> None:
        """Opens a folder, made if it is not there.

        Args:
            folder: Shared by all processes that fill or read it.
            key: All that the tokens depend on, ready for JSON.
            layout: How they are stored; follows from the key.

        Raises:
            CacheKeyError: The folder was made with another key.
        """
        self.folder = Path(folder)
        self.layout = layout
        self.contents: dict[str, Entry] = {}
        self._stamps: dict[FileStamp, str] = {}
        self._names: dict[str, set[str]] = {}
        self._check_key(key)
        self.refresh()

    def _check_key(self, key: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / KEY_NAME
        wanted = json.loads(json.dumps(key))
        if not file.is_file():
            whole = file.with_name(f".{KEY_NAME}.{uuid.uuid4().hex}")
            whole.write_text(json.dumps(wanted, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            try:
                os.link(whole, file)  # unlike a rename, never over the key of a job that began at the same time
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                os.replace(whole, file)
            whole.unlink(missing_ok=True)
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            differing = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
        except (ValueError, TypeError) as error:
            raise CacheKeyError(f"--feature_cache: {file} is damaged ({error}); use another folder") from error
        if differing:
            differences = "; ".join(f"{name} was {found.get(name)}, is {wanted.get(name)}" for name in differing)
            raise CacheKeyError(
                f"--feature_cache {self.folder} holds tokens made otherwise ({differences}); use another folder"
            )

    def refresh(self) -> None:
        """Reads what other processes have written since."""
        for index in sorted(self.folder.glob("*.jsonl")):
            data = index.with_suffix(".bin")
            written = data.stat().st_size if data.is_file() else 0
            for line in index.read_bytes().split(b"\n")[:-1]:  # what follows the last newline is torn, or nothing
                try:
                    self._take(json.loads(line), index.stem, written)
                except (ValueError, KeyError, TypeError):
                    continue  # a line that a full disk or a crash left behind; its image is computed again

    def _take(self, line: dict[str, Any], stem: str, written: int) -> None:
        content = str(line["content"])
        if "path" in line:
            self._know(FileStamp(line["path"], line["bytes"], line["mtime_ns"]), content)
        elif "problem" in line:
            self.contents[content] = Entry(problem=line["problem"])
        else:
            width, height = line["size"]
            entry = Entry(stem, line["offset"], line["tiles"], (width, height))
            if entry.offset + entry.tiles * self.layout.bytes_per_tile <= written:
                self.contents[content] = entry

    def _know(self, stamp: FileStamp, content: str) -> None:
        self._stamps[stamp] = content
        self._names.setdefault(stamp.path, set()).add(content)

    def lacks(self, stamps: Mapping[str, FileStamp]) -> list[str]:
        """The names of files that are not in the cache, or have changed since.

        Args:
            stamps: By name; a missing file is known if only one content was ever seen at its path.
        """
        return [name for name, stamp in stamps.items() if not self._holds(stamp)]

    def _holds(self, stamp: FileStamp) -> bool:
        if stamp.is_gone:
            return len(self._names.get(stamp.path, set()) & self.contents.keys()) == 1
        return self._stamps.get(stamp) in self.contents

    def reader(self, stamps: Mapping[str, FileStamp]) -> FeatureReader:
        """What data loading needs of some files.

        Args:
            stamps: By name. The cache must hold them all.
        """
        found = {}
        for name, stamp in stamps.items():
            known = self._names[stamp.path] & self.contents.keys() if stamp.is_gone else {self._stamps[stamp]}
            (content,) = known
            found[name] = self.contents[content]
        return FeatureReader(self.folder, self.layout, found)


class FeatureWriter:
    """Adds images to a cache, in files of its own. Made per process and fill; `close` it."""

    def __init__(self, cache: FeatureCache) -> None:
        self._cache = cache
        self._stem = uuid.uuid4().hex
        self._data = (cache.folder / f"{self._stem}.bin").open("xb")
        self._index = (cache.folder / f"{self._stem}.jsonl").open("xb")

    def add(
        self,
        seen: Mapping[str, tuple[VisionTokens, tuple[int, int]]],
        problems: Mapping[str, str],
        stamps: Iterable[tuple[FileStamp, str]],
    ) -> None:
        """Writes images to the disk; when it returns, a crash cannot lose them.

        Args:
            seen: By content, the tokens of an image and its (w, h).
            problems: By content, why an image has none.
            stamps: The files, and their contents.
        """
        lines: list[dict[str, Any]] = []
        for content, (tokens, size) in seen.items():
            stored = self._cache.layout.encode(tokens)
            tiles = len(tokens.tokens)
            lines.append({"content": content, "offset": self._data.tell(), "tiles": tiles, "size": list(size)})
            self._data.write(stored)
        _to_disk(self._data)
        lines += [{"content": content, "problem": problem} for content, problem in problems.items()]
        lines += [
            {"path": stamp.path, "bytes": stamp.num_bytes, "mtime_ns": stamp.mtime_ns, "content": content}
            for stamp, content in stamps
        ]
        self._index.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        _to_disk(self._index)

    def close(self) -> None:
        """Closes the files; without an image they are removed."""
        empty = self._index.tell() == 0
        for file in (self._data, self._index):
            file.close()
            if empty:
                Path(file.name).unlink()


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


class FeatureReader:
    """Tokens of given files, memory-mapped; it may be sent to data-loading processes."""

    def __init__(self, folder: Path, layout: TokenFormat, entries: Mapping[str, Entry]) -> None:
        self._folder = folder
        self._layout = layout
        self._entries = dict(entries)
        self._maps: dict[str, np.memmap] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entry(self, name: str) -> Entry:
        """What is known of a file."""
        return self._entries[name]

    def read(self, name: str) -> VisionTokens:
        """The tokens of a file."""
        entry = self._entries[name]
        if entry.file not in self._maps:
            self._maps[entry.file] = np.memmap(self._folder / f"{entry.file}.bin", dtype=np.uint8, mode="r")
        end = entry.offset + entry.tiles * self._layout.bytes_per_tile
        return self._layout.decode(self._maps[entry.file][entry.offset : end], entry.tiles)
