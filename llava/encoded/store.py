"""A store of encoded images: a mapping from an image's hash or path to its rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from llava.encoded.errors import StoreError
from llava.encoded.index import Entry, FileStamp, StoreIndex
from llava.encoded.layout import Layout
from llava.encoded.manifest import MANIFEST, Manifest, refuse_outdated
from llava.encoded.rows import Rounding, unpack_rows

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class EncodedImage:
    """An image of a store.

    Attributes:
        entry: What the index says of it: content, size, grid, tiles.
        tokens: (R, C), in the type in which they were computed; of the stage `tower` T * K rows, tile after tile.
        positions: (R,), int16, as `CompressedTokens` has them; None where the store has none.
    """

    entry: Entry
    tokens: Tensor
    positions: Tensor | None


class EncodedStore(Mapping[str, EncodedImage]):
    """A folder of encoded images. Its keys are hashes of images' files; a path is a key, too.

    It may be sent to other processes. What is added later shows after `index.refresh()`.
    """

    def __init__(self, folder: str | Path, manifest: Manifest) -> None:
        """Of a folder whose manifest is known; see `open_store` and `make_store`.

        Raises:
            StoreError: An index is damaged.
        """
        self.folder = Path(folder)
        self.manifest = manifest
        self.index = StoreIndex(self.folder)
        self._shards: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}

    @property
    def layout(self) -> Layout:
        """In which form images are held."""
        return self.manifest.layout

    @property
    def num_bytes(self) -> int:
        """Of all shards."""
        return sum(shard.num_bytes for shard in self.index.shards.values())

    @property
    def rounding(self) -> Rounding:
        """How far the rows are from what was computed; nothing where both are of one type."""
        total = Rounding()
        for shard in self.index.shards.values():
            total.add(shard.rounding)
        return total

    # ----- As a mapping ------------------------------------------------------------

    def __len__(self) -> int:
        return sum(not entry.problem for entry in self.index.contents.values())

    def __iter__(self) -> Iterator[str]:
        return (content for content, entry in self.index.contents.items() if not entry.problem)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str | Path) and self._entry(key) is not None

    def __getitem__(self, key: str | Path) -> EncodedImage:
        """An image, by the hash of its file or by its path."""
        entry = self._entry(key)
        if entry is None:
            raise KeyError(f"{self.folder} holds no image {key}")
        return self.read(entry)

    def _entry(self, key: str | Path) -> Entry | None:
        if isinstance(key, str) and _HASH.fullmatch(key):
            entry = self.index.contents.get(key)
            return None if entry is None or entry.problem else entry
        return self.find(key)

    # ----- Finding and reading -----------------------------------------------------

    def find(self, source: str | Path | bytes) -> Entry | None:
        """What is stored of an image; nothing is decoded.

        A file that was built from, and has not changed, is not opened; of another one the bytes are hashed.

        Args:
            source: A path, or the bytes of an image's file.
        """
        entry = None
        if isinstance(source, bytes):
            entry = self.index.contents.get(hashlib.sha256(source).hexdigest())
        else:
            path = Path(source)
            stamp = FileStamp.of(path)
            entry = self.index.find(stamp)
            if entry is None and not stamp.is_gone and self.index.contents:
                entry = self.index.contents.get(content_of(path))
        return None if entry is None or entry.problem else entry

    def read(self, entry: Entry) -> EncodedImage:
        """The rows of an image.

        Raises:
            StoreError: The shard cannot be read.
        """
        layout = self.layout
        rows = slice(entry.row, entry.row + entry.tokens * (entry.tiles if layout.stage == "tower" else 1))
        try:
            shard = self._shard(entry.shard)
            packed = shard["tokens"][rows]
            scales = shard["scales"][rows] if "scales" in shard else None
            positions = shard["positions"][rows] if layout.positions else None
            if packed.shape != (rows.stop - rows.start, layout.channels):
                raise StoreError(f"its rows are {tuple(packed.shape)}")
        except (OSError, SafetensorError, KeyError, StoreError) as error:
            raise StoreError(f"{self.folder}: {entry.shard} cannot be read: {error}") from error
        return EncodedImage(entry, unpack_rows(packed, scales, layout.computed), positions)

    def _shard(self, name: str) -> Any:
        """The tensors of a shard, mapped and not read."""
        if name not in self._shards:
            file = safe_open(self.folder / name, framework="pt")
            self._shards[name] = {tensor: file.get_slice(tensor) for tensor in file.keys()}  # noqa: SIM118
        return self._shards[name]


def content_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_store(folder: str | Path) -> EncodedStore:
    """Opens a store.

    Raises:
        StoreError: The folder is none, or damaged.
    """
    return EncodedStore(folder, Manifest.read(Path(folder)))


def make_store(folder: str | Path, layout: Layout, made_with: Mapping[str, Any]) -> EncodedStore:
    """Opens a store to add to it; makes it if it is not there. One that is keeps its layout.

    Args:
        folder: Shared by all processes.
        layout: Of a new store.
        made_with: `ModelFacts.parts` of the model that will encode.

    Raises:
        StoreMismatchError: What is there was encoded otherwise.
        StoreError: What is there is no folder, of an earlier version, or damaged.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path}: a file, and a store is a folder; take another name")
    if not (path / MANIFEST).is_file():
        refuse_outdated(path)
        Manifest.new(layout, made_with).write(path)
    manifest = Manifest.read(path)
    manifest.check(made_with, path)
    return EncodedStore(path, manifest)
