"""The rows of one table file: its texts in memory or mapped, its images read from the disk when they are asked for.

Parquet files are read where they lie: an image costs the decoding of its row group (100 rows as `datasets` writes
them). Arrow files are memory-mapped: an image costs its own bytes.
"""

from __future__ import annotations

import bisect
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

COUNT = "number of images"  # a column of our own: images that a row holds
_CONVERSATIONS = "conversations"
_IMAGE_COLUMNS = ("image", "images")
_OTHER_COLUMNS = ("id", "data_source")
_KEPT_ROW_GROUPS = 2
_LARGE_ROW_GROUP = 1 << 28


@dataclass(frozen=True)
class TableFile:
    """A file of a table, or a dataset that lies in several files.

    Attributes:
        name: Its path, for messages.
        sizes: Bytes of each file.
        mtime_ns: Time of the latest change.
        text: Arrow table with `conversations`; `id`, `data_source` and `image` (paths) if there are such columns; and
            `COUNT` if the table holds images.
        several_images: Whether a row may hold several.
        image_of: The Arrow scalar of a row's images.
    """

    name: str
    sizes: tuple[int, ...]
    mtime_ns: int
    text: Any
    several_images: bool = False
    image_of: Callable[[int], Any] | None = None

    def __len__(self) -> int:
        rows: int = self.text.num_rows
        return rows

    @property
    def holds_images(self) -> bool:
        """Whether images lie in the table; else it may name files."""
        return self.image_of is not None

    def image_bytes(self, row: int, number: int) -> bytes | None:
        """An encoded image; None if the row has only a name in its place.

        Raises:
            OSError: The file cannot be read.
        """
        from pyarrow import ArrowException, StructScalar

        assert self.image_of is not None
        try:
            image = self.image_of(row)
        except ArrowException as error:
            raise OSError(f"the table is damaged: {error}") from error
        if self.several_images:
            image = image.values[number]
        if image.is_valid and isinstance(image, StructScalar):
            image = image["bytes"]
        content: bytes | None = image.as_py()
        return content


def parquet_file(path: Path) -> TableFile:
    """A parquet file, read in place.

    Raises:
        ValueError: It is no parquet file, or has no conversations.
    """
    from pyarrow import ArrowException, concat_tables
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path, memory_map=True)
        column = image_column(path, file.schema_arrow)
        leaves = [file.schema.column(number).path for number in range(len(file.schema))]
        wanted = [leaf for leaf in leaves if leaf.split(".")[0] in (_CONVERSATIONS, *_OTHER_COLUMNS)]
        own = [leaf for leaf in leaves if leaf.split(".")[0] == column]
        light = [leaf for leaf in own if not leaf.endswith(".bytes")]  # enough to count images
        groups = list(range(file.num_row_groups))
        if own and not light:  # their bytes must be read to count them: not all at once
            parts = [_text(file.read_row_groups([group], columns=[*wanted, *own]), column) for group in groups]
        else:
            parts = [_text(file.read_row_groups(groups, columns=[*wanted, *light]), column)]
        text = concat_tables(parts)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable parquet file ({error})") from error
    status = path.stat()
    is_stored = column is not None and COUNT in text.column_names
    images = RowGroups(path, column) if column is not None and is_stored else None
    if images is not None:
        images.warn_if_large()
    kind = file.schema_arrow.field(column).type if column is not None else None
    name = str(path.absolute())
    return TableFile(name, (status.st_size,), status.st_mtime_ns, text, _is_list(kind), images)


def arrow_file(path: Path) -> TableFile:
    """An Arrow file as `datasets` writes it, memory-mapped.

    Raises:
        ValueError: It is no such file, or has no conversations.
    """
    from datasets import Dataset
    from pyarrow import ArrowException

    try:
        dataset = Dataset.from_file(str(path))
    except (ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable Arrow file ({error})") from error
    return _mapped(dataset, path, [path])


def saved_dataset(folder: Path) -> TableFile:
    """What `Dataset.save_to_disk` wrote, memory-mapped.

    Raises:
        ValueError: It is damaged, or has no conversations.
    """
    from datasets import load_from_disk
    from pyarrow import ArrowException

    try:
        dataset = load_from_disk(str(folder))
    except (ArrowException, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} cannot be read as a saved dataset ({error})") from error
    return _mapped(dataset, folder, [Path(file["filename"]) for file in dataset.cache_files])


def copied_parquet(files: Sequence[Path], cache: Path) -> TableFile:
    """An Arrow copy of parquet files, memory-mapped; `datasets` writes it once and finds it again.

    Raises:
        ValueError: A file is no parquet file, or has no conversations.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    try:
        schemas = [read_schema(file) for file in files]
        columns = [image_column(file, schema) for file, schema in zip(files, schemas, strict=True)]
        names = [name for name in (_CONVERSATIONS, *_OTHER_COLUMNS, columns[0]) if name in schemas[0].names]
        dataset = Dataset.from_parquet([str(file) for file in files], cache_dir=str(cache), columns=names)
    except (ArrowException, OSError, DatasetGenerationError) as error:
        raise ValueError(f"{files[0]} and what is beside it cannot be copied to {cache}: {error}") from error
    return _mapped(dataset, files[0] if len(files) == 1 else files[0].parent, files)


def _mapped(dataset: Any, path: Path, files: Sequence[Path]) -> TableFile:
    """The rows of a memory-mapped dataset; Arrow's format gives images as they are stored, not decoded."""
    table = dataset.with_format("arrow")[:]
    column = image_column(path, table.schema)
    text = _text(table.select([name for name in table.column_names if name in _known(column)]), column)
    status = [file.stat() for file in files]
    images = Mapped(table[column]) if column is not None and COUNT in text.column_names else None
    several = _is_list(table.schema.field(column).type) if column is not None else False
    changed = max((entry.st_mtime_ns for entry in status), default=0)
    return TableFile(str(path.absolute()), tuple(entry.st_size for entry in status), changed, text, several, images)


def image_column(path: Path, schema: Any) -> str | None:
    """The column that holds images or names them: `image`, else `images`, else none.

    Raises:
        ValueError: The table has no conversations, or its images are of another form.
    """
    from pyarrow import types

    if _CONVERSATIONS not in schema.names:
        raise ValueError(f"{path} has no column {_CONVERSATIONS!r}; it has {', '.join(schema.names) or 'none'}")
    kind = schema.field(_CONVERSATIONS).type
    turn = kind.value_type if _is_list(kind) else None
    if turn is None or not types.is_struct(turn) or min(map(turn.get_field_index, ("from", "value"))) < 0:
        raise ValueError(f"{path}: column {_CONVERSATIONS!r} must be a list of {{from, value}}, and is {kind}")
    column = next((name for name in _IMAGE_COLUMNS if name in schema.names), None)
    if column is None:
        return None
    kind = schema.field(column).type
    one = kind.value_type if _is_list(kind) else kind
    has_bytes = _is_stored(one) and (not types.is_struct(one) or one.get_field_index("bytes") >= 0)
    if not (has_bytes or types.is_string(one) or types.is_large_string(one) or types.is_null(one)):
        raise ValueError(f"{path}: column {column!r} must hold images ({{bytes, path}}) or their paths, and is {kind}")
    return column


def _known(column: str | None) -> tuple[str | None, ...]:
    return (_CONVERSATIONS, *_OTHER_COLUMNS, column)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return kind is not None and (types.is_list(kind) or types.is_large_list(kind))


def _is_stored(kind: Any) -> bool:
    """Whether a type is that of an encoded image; without its bytes, which need not have been read, it is a path."""
    from pyarrow import types

    return types.is_struct(kind) or types.is_binary(kind) or types.is_large_binary(kind)


def _text(table: Any, column: str | None) -> Any:
    """A table without its images: these are counted, or named where the table names files."""
    from pyarrow import compute

    if column is None:
        return table
    images = table[column]
    one = images.type.value_type if _is_list(images.type) else images.type
    rest = table.drop_columns([column])
    if not _is_stored(one):
        return rest.append_column("image", images)
    if _is_list(images.type):
        counts = compute.fill_null(compute.list_value_length(images).cast("int32"), 0)
    else:
        counts = images.is_valid().cast("int32")
    return rest.append_column(COUNT, counts)


class Mapped:
    """Images of a memory-mapped column."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __call__(self, row: int) -> Any:
        """The Arrow scalar of a row."""
        return self._column[row]


class RowGroups:
    """Images of a parquet file; the row groups that were read last are kept."""

    def __init__(self, path: Path, column: str) -> None:
        """Keeps what is needed; each process opens the file for itself.

        Args:
            path: The parquet file.
            column: That of the images.
        """
        self.path = path
        self.column = column
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "column": self.column}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._file: Any = None
        self._starts: list[int] = []
        self._groups: OrderedDict[int, Any] = OrderedDict()

    def __call__(self, row: int) -> Any:
        """The Arrow scalar of a row."""
        file = self._open()
        number = bisect.bisect_right(self._starts, row) - 1
        if number not in self._groups:
            while len(self._groups) >= _KEPT_ROW_GROUPS:
                self._groups.popitem(last=False)
            # Without threads: loading processes are many already, and those of a parent do not survive a fork.
            self._groups[number] = file.read_row_group(number, columns=[self.column], use_threads=False)[self.column]
        self._groups.move_to_end(number)
        return self._groups[number][row - self._starts[number]]

    def warn_if_large(self) -> None:
        """Says so if an image costs the decoding of very many others."""
        metadata = self._open().metadata
        sizes = [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]
        largest = max(sizes, default=0)
        if largest > _LARGE_ROW_GROUP:
            logger.warning(
                "%s: its row groups hold up to %d MB, which are decoded for each image; --data_cache FOLDER writes an "
                "Arrow copy once, from which single images are read",
                *(self.path, largest >> 20),
            )

    def _open(self) -> Any:
        if self._file is None:
            from pyarrow.parquet import ParquetFile

            self._file = ParquetFile(self.path, memory_map=True)
            metadata, start = self._file.metadata, 0
            for number in range(metadata.num_row_groups):
                self._starts.append(start)
                start += metadata.row_group(number).num_rows
        return self._file
