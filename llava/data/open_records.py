"""What `--data_path` names, opened: LLaVA's JSON or a table, as a sequence of records with lazily opened images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llava.data.records import Record, check_records, images_of, read_entries, read_records
from llava.data.tables.open_table import is_table, open_table
from llava.data.tables.records import TableRecords
from llava.data.templates import PromptTemplate


def open_records(
    data_path: str | Path,
    template: PromptTemplate,
    cache: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> Sequence[Record]:
    """Opens the data and checks each entry; opens no image.

    Args:
        data_path: A JSON or JSONL file, or what `llava.data.tables.open_table.open_table` takes.
        template: What the conversations must fit.
        cache: Folder for an Arrow copy of parquet files; None reads them in place.
        image_folder: Where the paths of the images begin.

    Raises:
        ValueError: The data or one of its entries is not of this form, or there is no such table; names it.
        OSError: There is no such JSON file.
    """
    if not is_table(data_path):
        return read_records(data_path, template, image_folder or "")
    table = open_table(data_path, cache)
    check_records(table, table.place, template, image_folder or "")
    return table


def open_entries(
    data_path: str | Path, cache: str | Path | None = None, *, keep_bad_lines: bool = False
) -> tuple[Sequence[Any], Callable[[int], str]]:
    """Opens the data and checks no entry.

    Args:
        data_path: As for `open_records`.
        cache: As for `open_records`.
        keep_bad_lines: A line of JSONL that is not JSON becomes a `BadLine`.

    Returns:
        The entries, and what gives the place of one by its index, for messages.

    Raises:
        ValueError: The file is no JSON list of entries, or there is no such table.
        OSError: There is no such JSON file.
    """
    if is_table(data_path):
        table = open_table(data_path, cache)
        return table, table.place
    entries = read_entries(data_path, keep_bad_lines=keep_bad_lines)
    return [entry for _, entry in entries], [place for place, _ in entries].__getitem__


def select_records(records: Sequence[Record], indices: Sequence[int]) -> Sequence[Record]:
    """Some of the records, in the order of the indices."""
    if isinstance(records, TableRecords):
        return records.select(indices)
    return [records[index] for index in indices]


def names_files(records: Sequence[Record]) -> bool:
    """Whether an image is named by its path, which begins in `--image_folder`."""
    if isinstance(records, TableRecords) and not records.names_files:
        return False  # known without looking at every row
    return any(isinstance(image, str) for record in records for image in images_of(record))
