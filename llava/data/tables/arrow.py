"""Arrow files and saved datasets, memory-mapped by `datasets`: an image costs its own bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava.data.tables.files import COUNT, TEXT_COLUMNS, TableFile, image_column, is_list, text_of


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
        names = [name for name in (*TEXT_COLUMNS, columns[0]) if name in schemas[0].names]
        dataset = Dataset.from_parquet([str(file) for file in files], cache_dir=str(cache), columns=names)
    except (ArrowException, OSError, DatasetGenerationError) as error:
        raise ValueError(f"{files[0]} and what is beside it cannot be copied to {cache}: {error}") from error
    return _mapped(dataset, files[0] if len(files) == 1 else files[0].parent, files)


def _mapped(dataset: Any, path: Path, files: Sequence[Path]) -> TableFile:
    """The rows of a memory-mapped dataset."""
    table = _as_arrow(dataset)
    column = image_column(path, table.schema)
    text = text_of(table.select([name for name in table.column_names if name in (*TEXT_COLUMNS, column)]), column)
    status = [file.stat() for file in files]
    return TableFile(
        name=str(path.absolute()),
        sizes=tuple(entry.st_size for entry in status),
        mtime_ns=max((entry.st_mtime_ns for entry in status), default=0),
        text=text,
        several_images=column is not None and is_list(table.schema.field(column).type),
        image_of=Mapped(dataset, column) if column is not None and COUNT in text.column_names else None,
    )


def _as_arrow(dataset: Any) -> Any:
    """A dataset's Arrow table, not copied; its images are as they are stored, not decoded."""
    return dataset.with_format("arrow")[:]


class Mapped:
    """Images of a memory-mapped dataset; a process that they are sent to maps the files again."""

    def __init__(self, dataset: Any, column: str) -> None:
        """Keeps the dataset.

        Args:
            dataset: Of the library `datasets`.
            column: That of the images.
        """
        self._dataset = dataset
        self._column = column
        self._images: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None}

    def __call__(self, row: int) -> Any:
        """The Arrow scalar of a row."""
        if self._images is None:
            self._images = _as_arrow(self._dataset)[self._column]
        return self._images[row]
