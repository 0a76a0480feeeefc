"""Arrow files and saved datasets, memory-mapped by `datasets`: an image costs its own bytes."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llava.data.tables.files import COUNT, TEXT_COLUMNS, TableFile, image_column, is_list, text_of

_FILE_MAGIC = b"ARROW1"  # what is no stream but a file with random access begins with it


def arrow_file(path: Path) -> TableFile:
    """An Arrow stream, as `datasets` writes it, or an Arrow file (Feather), memory-mapped unless it is compressed.

    Raises:
        ValueError: It is neither, or has no conversations.
    """
    from pyarrow import ArrowException

    try:
        return _mapped(partial(_read_arrow, path), path, [path])
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable Arrow file ({error})") from error


def saved_dataset(folder: Path) -> TableFile:
    """What `Dataset.save_to_disk` wrote, memory-mapped.

    Raises:
        ValueError: It is damaged, or has no conversations.
    """
    from datasets import load_from_disk
    from pyarrow import ArrowException

    try:
        dataset = load_from_disk(str(folder))
    except (ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        what = f"{folder} cannot be read as a saved dataset; look at its state.json and dataset_info.json"
        raise ValueError(f"{what} ({_first_line(error)})") from error
    files = [Path(file["filename"]) for file in dataset.cache_files]
    return _mapped(partial(_as_arrow, dataset), folder, files)


def copied_parquet(file: Path, cache: Path) -> TableFile:
    """An Arrow copy of a parquet file, memory-mapped; `datasets` writes it once and finds it again.

    Args:
        file: Has at least one row.
        cache: Folder for the copies.

    Raises:
        ValueError: It is no parquet file, or has no conversations, or cannot be copied.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    try:
        schema = read_schema(file)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a readable parquet file ({error})") from error
    names = [name for name in (*TEXT_COLUMNS, image_column(file, schema)) if name in schema.names]
    try:
        dataset = Dataset.from_parquet(glob.escape(str(file)), cache_dir=str(cache), columns=names)
    except (ArrowException, OSError, ValueError, NotImplementedError, DatasetGenerationError) as error:
        reason = _first_line(error.__cause__ or error)
        raise ValueError(f"{file} cannot be copied to {cache}: {reason}") from error
    return _mapped(partial(_as_arrow, dataset), file, [file])


def _first_line(error: BaseException) -> str:
    """An error of a library in a line."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _mapped(read: Callable[[], Any], path: Path, files: Sequence[Path]) -> TableFile:
    """The rows of a memory-mapped table.

    Args:
        read: Maps it; may be sent to another process.
        path: For messages.
        files: What it lies in.
    """
    table = read()
    column = image_column(path, table.schema)
    text = text_of(table.select([name for name in table.column_names if name in (*TEXT_COLUMNS, column)]), column)
    status = [file.stat() for file in files]
    return TableFile(
        name=str(path.absolute()),
        sizes=tuple(entry.st_size for entry in status),
        mtime_ns=max((entry.st_mtime_ns for entry in status), default=0),
        text=text,
        several_images=column is not None and is_list(table.schema.field(column).type),
        image_of=Mapped(read, column) if column is not None and COUNT in text.column_names else None,
    )


def _read_arrow(path: Path) -> Any:
    """An Arrow table, mapped."""
    from pyarrow import ipc, memory_map

    source = memory_map(str(path))
    is_file = source.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    source.seek(0)
    return (ipc.open_file(source) if is_file else ipc.open_stream(source)).read_all()


def _as_arrow(dataset: Any) -> Any:
    """A dataset's Arrow table, not copied; its images are as they are stored, not decoded."""
    return dataset.with_format("arrow")[:]


class Mapped:
    """Images of a memory-mapped dataset; a process that they are sent to maps the files again."""

    def __init__(self, read: Callable[[], Any], column: str) -> None:
        """Maps nothing yet.

        Args:
            read: Gives the Arrow table.
            column: That of the images.
        """
        self._read = read
        self._column = column
        self._images: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None}

    def __call__(self, row: int) -> Any:
        """The Arrow scalar of a row."""
        if self._images is None:
            self._images = self._read()[self._column]
        return self._images[row]
