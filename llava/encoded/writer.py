"""Adds images to a store, so that a process may be killed at any instant, and several may write at once."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from llava.encoded.errors import StoreError
from llava.encoded.index import INDEX_SUFFIX, SHARD_SUFFIX, Entry, FileStamp, ShardFacts
from llava.encoded.manifest import MANIFEST
from llava.encoded.rows import Rounding, pack_rows
from llava.encoded.store import EncodedStore
from llava.locks import held, is_held, only_one

SHARD_BYTES = 256 * 2**20
"""What a shard holds before it is written."""
SHARD_SECONDS = 60
"""How long an image waits for its shard at most: what a kill can cost."""
_PART = ".part"


@dataclass(frozen=True)
class EncodedRows:
    """An image, ready to be stored.

    Attributes:
        size: (w, h) before any resizing.
        tiles: T.
        rows: (R, C), of all tiles.
        positions: (R,), where the store has them; else None.
    """

    size: tuple[int, int]
    tiles: int
    rows: Tensor
    positions: Tensor | None = None


@dataclass
class _Waiting:
    """What the next shard will hold, in order."""

    images: dict[str, tuple[EncodedRows, Tensor, Tensor | None]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    stamps: list[tuple[FileStamp, str]] = field(default_factory=list)
    num_bytes: int = 0
    since: float = field(default_factory=time.monotonic)


class StoreWriter:
    """Writes images in shards of its own. A context manager: leaving it writes what waits, after Ctrl-C too.

    A shard is written, brought to the disk and renamed, then its index likewise. So all of a shard counts or nothing
    does, and what a killed process leaves is swept away by the next. Whoever commits looks first, under a lock, at what
    others have added meanwhile: an image is stored once.
    """

    def __init__(self, store: EncodedStore, *, sweeps: bool = True) -> None:
        """Begins.

        Args:
            store: Of which the images are to be.
            sweeps: Whether to remove what killed processes have left; of several processes that begin together, one
                should.
        """
        self._store = store
        self._name = uuid.uuid4().hex
        self._number = 0
        self._waiting = _Waiting()
        self._held = ExitStack()
        self._written_bytes = 0
        if sweeps:
            with only_one(store.folder):
                _sweep(store.folder)
        self._held.enter_context(held(_mark(store.folder, self._name)))

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or not issubclass(kind, OSError | StoreError):
                self.commit()
        finally:
            self._held.close()
            _mark(self._store.folder, self._name).unlink(missing_ok=True)

    @property
    def taken_bytes(self) -> int:
        """Of shards, those that wait counted as well."""
        return self._written_bytes + self._waiting.num_bytes

    def holds(self, content: str) -> bool:
        """Whether an image is stored, or waits to be."""
        return content in self._store.index.contents or content in self._waiting.images

    def add(self, content: str, image: EncodedRows) -> None:
        """Takes an image.

        Raises:
            StoreError: Its numbers do not fit the store's type.
            OSError: The disk took no shard.
        """
        layout = self._store.layout
        packed, scales = pack_rows(image.rows, layout.stored)
        self._waiting.images[content] = (image, packed, scales)
        self._waiting.num_bytes += len(packed) * layout.bytes_per_row

    def add_problem(self, content: str, problem: str) -> None:
        """Notes why there are no rows of an image."""
        self._waiting.problems[content] = problem

    def add_stamps(self, stamps: Iterable[tuple[FileStamp, str]]) -> None:
        """Notes which files have which contents; then writes all that waits, if it is much, or has waited long."""
        self._waiting.stamps += stamps
        is_old = time.monotonic() - self._waiting.since > SHARD_SECONDS
        if is_old or self._waiting.num_bytes >= SHARD_BYTES:
            self.commit()

    def commit(self) -> None:
        """Writes all that waits; when it returns, a crash cannot lose it.

        Raises:
            OSError: The disk took it not.
        """
        waiting, store = self._waiting, self._store
        if waiting.images or waiting.problems or waiting.stamps:
            with only_one(store.folder):
                store.index.refresh()
                lines = self._shard_lines(waiting)
                known = store.index.contents
                lines += [Entry(c, problem=p).to_line() for c, p in waiting.problems.items() if c not in known]
                lines += [
                    {"path": stamp.path, "bytes": stamp.num_bytes, "mtime_ns": stamp.mtime_ns, "content": content}
                    for stamp, content in waiting.stamps
                    if store.index.content_of(stamp) != content
                ]
                if lines:
                    self._write_index(lines)
                    store.index.refresh()
        self._waiting = _Waiting()

    def _shard_lines(self, waiting: _Waiting) -> list[dict[str, Any]]:
        """Writes the rows of images that nobody else has stored; returns their lines."""
        layout, folder = self._store.layout, self._store.folder
        known = self._store.index.contents
        fresh = {content: image for content, image in waiting.images.items() if content not in known}
        if not fresh:
            return []
        name = f"{self._stem}{SHARD_SUFFIX}"
        tensors = {"tokens": torch.cat([packed for _, packed, _ in fresh.values()])}
        scales = [scale for _, _, scale in fresh.values() if scale is not None]
        if scales:
            tensors["scales"] = torch.cat(scales)
        if layout.positions:
            positions = [image.positions for image, _, _ in fresh.values() if image.positions is not None]
            tensors["positions"] = torch.cat(positions).to("cpu", torch.int16)
        part = folder / f".{name}{_PART}"
        try:
            save_file(tensors, part)
        except SafetensorError as error:  # of a full disk, say
            raise OSError(f"{part.name} cannot be written: {error}") from error
        part.chmod((folder / MANIFEST).stat().st_mode)  # safetensors writes for the owner alone
        _to_disk(part)
        os.replace(part, folder / name)
        rounding, lines, row = Rounding(), [], 0
        for content, (image, packed, scale) in fresh.items():
            if layout.stored != layout.computed:
                rounding.measure(image.rows, packed, scale)
            tokens = len(packed) // image.tiles if layout.stage == "tower" else len(packed)
            lines.append(Entry(content, image.size, layout.grid, image.tiles, tokens, name, row).to_line())
            row += len(packed)
        num_bytes = (folder / name).stat().st_size
        self._written_bytes += num_bytes
        return [ShardFacts(row, num_bytes, rounding).to_line(name), *lines]

    def _write_index(self, lines: list[dict[str, Any]]) -> None:
        folder, name = self._store.folder, f"{self._stem}{INDEX_SUFFIX}"
        part = folder / f".{name}{_PART}"
        part.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        _to_disk(part)
        os.replace(part, folder / name)
        _to_disk(folder)
        self._number += 1

    @property
    def _stem(self) -> str:
        return f"{self._name}-{self._number:05d}"


def _mark(folder: Path, writer: str) -> Path:
    """The file that a writer holds for as long as it lives."""
    return folder / f".{writer}.writing"


def _sweep(folder: Path) -> None:
    """Removes what killed writers have left: parts of files, shards without an index, their marks."""
    leftovers = [*folder.glob(f".*{_PART}"), *folder.glob(".*.writing")]
    leftovers += [shard for shard in folder.glob(f"*{SHARD_SUFFIX}") if not shard.with_suffix(INDEX_SUFFIX).is_file()]
    for file in leftovers:
        writer = file.name.removeprefix(".").partition(".")[0].partition("-")[0]
        if not is_held(_mark(folder, writer)):
            file.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Brings a file, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
