"""LLaVA's entries as the tables that `datasets` and the Hub have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from datasets import Dataset, Image, List

TURNS = pyarrow.list_(pyarrow.struct([("from", pyarrow.string()), ("value", pyarrow.string())]))
IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
SCHEMA = pyarrow.schema(
    [("id", pyarrow.string()), ("image", IMAGE), ("conversations", TURNS), ("data_source", pyarrow.string())]
)
SEVERAL = SCHEMA.remove(1).append(pyarrow.field("images", pyarrow.list_(IMAGE)))


def stored(path: Path) -> dict[str, Any]:
    return {"bytes": path.read_bytes(), "path": path.name}


def rows_of(records: list[dict[str, Any]], images: Path) -> list[dict[str, Any]]:
    """Entries of LLaVA's JSON with the images themselves in place of their paths; one or none each."""
    return [
        {**record, "image": stored(images / record["image"]) if record.get("image") else None, "data_source": "tiny"}
        for record in records
    ]


def several(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows with lists of images."""
    return [
        {**{name: value for name, value in row.items() if name != "image"}, "images": row["image"] and [row["image"]]}
        for row in rows
    ]


def write_parquet(path: Path, rows: list[dict[str, Any]], schema: Any = SCHEMA, group: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path, row_group_size=group)
    return path


def write_shards(folder: Path, rows: list[dict[str, Any]], schema: Any = SCHEMA, count: int = 2) -> Path:
    """A folder as the Hub has it: `data/train-00000-of-00002.parquet`."""
    size = -(-len(rows) // count)
    for number in range(count):
        part = rows[number * size : (number + 1) * size]
        write_parquet(folder / f"data/train-{number:05d}-of-{count:05d}.parquet", part, schema)
    return folder


def dataset_of(rows: list[dict[str, Any]], schema: Any = SCHEMA) -> Dataset:
    dataset = Dataset(pyarrow.Table.from_pylist(rows, schema))
    return dataset.cast_column("image", Image()) if schema is SCHEMA else dataset.cast_column("images", List(Image()))


def write_arrow(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file as `datasets` keeps it in its cache."""
    table = pyarrow.Table.from_pylist(rows, SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, SCHEMA) as writer:
        writer.write_table(table, max_chunksize=2)
    return path
