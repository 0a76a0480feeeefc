"""Parquet files, read in place: an image costs the decoding of its row group, 100 rows as `datasets` writes them."""

from __future__ import annotations

import bisect
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from llava.data.tables.files import COUNT, TEXT_COLUMNS, TableFile, image_column, is_list, text_of

logger = logging.getLogger(__name__)

_KEPT_ROW_GROUPS = 2
_LARGE_ROW_GROUP = 1 << 28


def parquet_file(path: Path, recent: RecentGroups) -> TableFile:
    """A parquet file, read in place.

    Args:
        path: The file.
        recent: Shared by the files of a table.

    Raises:
        ValueError: It is no parquet file, or has no conversations.
    """
    from pyarrow import ArrowException, concat_tables
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path, memory_map=True)
        column = image_column(path, file.schema_arrow)
        leaves = [file.schema.column(number).path for number in range(len(file.schema))]
        wanted = [leaf for leaf in leaves if leaf.split(".")[0] in TEXT_COLUMNS]
        own = [leaf for leaf in leaves if leaf.split(".")[0] == column]
        light = [leaf for leaf in own if not leaf.endswith(".bytes")]  # enough to count images
        groups = list(range(file.num_row_groups))
        if own and not light:  # their bytes must be read to count them: not all at once
            parts = [text_of(file.read_row_groups([group], columns=[*wanted, *own]), column) for group in groups]
        else:
            parts = [text_of(file.read_row_groups(groups, columns=[*wanted, *light]), column)]
        text = concat_tables(parts)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable parquet file ({error})") from error
    status = path.stat()
    is_stored = column is not None and COUNT in text.column_names
    images = _row_groups(path, column, file.metadata, recent) if column is not None and is_stored else None
    kind = file.schema_arrow.field(column).type if column is not None else None
    name = str(path.absolute())
    return TableFile(name, (status.st_size,), status.st_mtime_ns, text, is_list(kind), images)


def num_rows(path: Path) -> int:
    """Rows of a parquet file, by its footer.

    Raises:
        ValueError: It is no parquet file.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        rows: int = read_metadata(path).num_rows
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable parquet file ({error})") from error
    return rows


class RecentGroups:
    """The row groups that were read last, of all files of a table; a process that it is sent to begins with none."""

    def __init__(self) -> None:
        self._groups: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def __reduce__(self) -> tuple[type[RecentGroups], tuple[()]]:
        return RecentGroups, ()

    def get(self, path: Path, number: int, read: Callable[[], Any]) -> Any:
        """A row group of a file, read unless it is kept."""
        if (path, number) not in self._groups:
            while len(self._groups) >= _KEPT_ROW_GROUPS:
                self._groups.popitem(last=False)
            self._groups[path, number] = read()
        self._groups.move_to_end((path, number))
        return self._groups[path, number]


@dataclass(frozen=True)
class RowGroups:
    """Images of a parquet file, which is open only while a row group is read: a table may have thousands of files.

    Attributes:
        path: The file.
        column: That of the images.
        starts: The first row of each row group.
        recent: Shared by the files of a table.
    """

    path: Path
    column: str
    starts: tuple[int, ...]
    recent: RecentGroups

    def __call__(self, row: int) -> Any:
        """The Arrow scalar of a row."""
        number = bisect.bisect_right(self.starts, row) - 1
        return self.recent.get(self.path, number, lambda: self._read(number))[row - self.starts[number]]

    def _read(self, number: int) -> Any:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(self.path, memory_map=True) as file:
            # Without threads: loading processes are many already, and those of a parent do not survive a fork.
            return file.read_row_group(number, columns=[self.column], use_threads=False)[self.column]


def _row_groups(path: Path, column: str, metadata: Any, recent: RecentGroups) -> RowGroups:
    """The images of a parquet file; says so if one costs the decoding of very many others."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size for group in groups), default=0)
    if largest > _LARGE_ROW_GROUP:
        logger.warning(
            "%s: its row groups hold up to %d MB, which are decoded for each image; --data_cache FOLDER writes an "
            "Arrow copy once, from which single images are read",
            *(path, largest >> 20),
        )
    starts = accumulate((group.num_rows for group in groups), initial=0)
    return RowGroups(path, column, tuple(starts)[:-1], recent)
