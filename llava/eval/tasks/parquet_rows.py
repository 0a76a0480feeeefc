"""Reading benchmarks that are published as parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.eval.tasks.base import TaskDataError
from llava.plain_files import check_is_file

_ROWS_AT_A_TIME = 64


def read_parquet(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The rows of parquet files, in order.

    Raises:
        TaskDataError: A file is no parquet file.
    """
    from pyarrow import ArrowException  # comes with datasets
    from pyarrow.parquet import ParquetFile

    for path in files:
        try:
            check_is_file(path)
            for batch in ParquetFile(path).iter_batches(_ROWS_AT_A_TIME):
                yield from batch.to_pylist()
        except (ArrowException, OSError) as error:
            raise TaskDataError(f"{path} is not a readable parquet file ({error})") from None


def image_bytes(row: Mapping[str, Any], name: str) -> bytes:
    """The encoded bytes of an image in a row: a cell of bytes, or of `{"bytes", "path"}`.

    Raises:
        ValueError: There are none.
    """
    cell = row.get(name)
    content = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if not isinstance(content, bytes) or not content:
        raise ValueError(f"{name} is empty")
    return content
