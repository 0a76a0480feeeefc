"""A table as a sequence of records, as LLaVA's JSON gives them; their images are opened one by one."""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import accumulate, chain
from typing import Any

from llava.data.records import Record, StoredImage
from llava.data.tables.files import COUNT, TableFile

_ROWS_AT_A_TIME = 1024


class TableRecords(Sequence[Record]):
    """Rows of table files in their order, each `{id, image?, conversations, data_source?}`."""

    def __init__(self, files: Sequence[TableFile], indices: Sequence[int] | None = None) -> None:
        """Keeps the files.

        Args:
            files: At least one.
            indices: Which rows, and in which order; None for all.

        Raises:
            ValueError: There is no row.
        """
        self.files = list(files)
        self._ends = list(accumulate(len(file) for file in files))
        self._whole = self
        self._indices: Sequence[int] = range(self._ends[-1]) if indices is None else indices
        if not self._ends[-1]:
            raise ValueError(f"{files[0].name} holds no rows")

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        file, row = self._find(index)
        (found,) = file.text.slice(row, 1).to_pylist()
        return _record(file, row, found)

    def __iter__(self) -> Iterator[Record]:
        if self._indices != range(self._ends[-1]):
            yield from (self[index] for index in range(len(self)))
            return
        for file in self.files:
            batches = file.text.to_batches(max_chunksize=_ROWS_AT_A_TIME)
            rows = chain.from_iterable(batch.to_pylist() for batch in batches)
            yield from (_record(file, row, found) for row, found in enumerate(rows))

    def select(self, indices: Sequence[int]) -> TableRecords:
        """Some of these rows; nothing is copied."""
        part = TableRecords(self.files, [self._indices[index] for index in indices])
        part._whole = self._whole
        return part

    def place(self, index: int) -> str:
        """File and row of an entry, for messages."""
        file, row = self._find(index)
        return _place(file, row)

    @property
    def names_files(self) -> bool:
        """Whether images lie beside the table, in `--image_folder`."""
        return any("image" in file.text.column_names for file in self.files)

    @property
    def sha256(self) -> str:
        """A hash of ids, conversations and numbers of images of the whole table, and of the sizes of its files."""
        return self._whole._sha256

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256(json.dumps([size for file in self.files for size in file.sizes]).encode())
        for file in self.files:
            for batch in file.text.to_batches(max_chunksize=_ROWS_AT_A_TIME):
                lines = [json.dumps(row, sort_keys=True, default=str) + "\n" for row in batch.to_pylist()]
                digest.update("".join(lines).encode())
        return digest.hexdigest()

    def _find(self, index: int) -> tuple[TableFile, int]:
        row = self._indices[index]
        number = bisect.bisect_right(self._ends, row)
        file = self.files[number]
        return file, row - self._ends[number] + len(file)


def _place(file: TableFile, row: int) -> str:
    return f"{file.name}, row {row}"


def _record(file: TableFile, row: int, found: dict[str, Any]) -> Record:
    """A row as an entry of LLaVA's JSON."""
    count = found.pop(COUNT, 0)
    record = {name: value for name, value in found.items() if value is not None}
    if count:
        images = [_image(file, row, number) for number in range(count)]
        record["image"] = images if file.several_images else images[0]
    return record


def _image(file: TableFile, row: int, number: int) -> StoredImage:
    name = f"{_place(file, row)}, image {number}" if file.several_images else _place(file, row)
    return StoredImage(name, sum(file.sizes), file.mtime_ns, partial(file.image_bytes, row, number))
