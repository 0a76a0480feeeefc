"""The parquet files of a dataset, in a folder or from the Hub, and their rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from llava.eval.sources.table import HubTable
from llava.eval.tasks import TaskDataError
from llava.plain_files import check_is_file

Row = dict[str, Any]
_ROWS_AT_A_TIME = 64


@dataclass(frozen=True)
class TableFiles:
    """Where a table's rows are.

    Attributes:
        dataset: Its id on the Hub, or the folder.
        revision: The commit on the Hub; of a folder a hash of its files' names, sizes and times.
        files: The parquet files, in the order of their rows.
    """

    dataset: str
    revision: str
    files: tuple[Path, ...]

    def rows(self, *columns: str, without: Sequence[str] = ()) -> Iterator[Row]:
        """Every row; an image is `{"bytes", "path"}`, as it was stored.

        Not by `datasets`: it would write a copy of the whole table first, or stream as this does, with the image
        columns of each table spelled out to keep them encoded.

        Args:
            *columns: Those that every file must have; others come too.
            without: Those that are not read.

        Raises:
            TaskDataError: A file is no parquet file, or lacks a column; before the first row if it can be known then.
        """
        from pyarrow import ArrowException  # comes with datasets
        from pyarrow.parquet import ParquetFile, read_schema

        for is_checked, path in product((False, True), self.files):  # all are checked before the first row is given
            try:
                check_is_file(path)
                names = read_schema(path).names
                if missing := [name for name in columns if name not in names]:
                    raise TaskDataError(f"{path} has no column {missing[0]!r}; docs/benchmarks.md has the schema")
                if is_checked:
                    wanted = [name for name in names if name not in without]
                    for batch in ParquetFile(path).iter_batches(_ROWS_AT_A_TIME, columns=wanted):
                        yield from batch.to_pylist()
            except (ArrowException, OSError) as error:
                raise TaskDataError(f"{path} is not a readable parquet file ({error})") from None


def in_folder(table: HubTable, root: Path) -> TableFiles:
    """A table in a folder that holds datasets as the Hub has them: `[<namespace>/]<name>/**/<split>-*.parquet`.

    Raises:
        TaskDataError: There is no such file; says which folders were looked into.
    """
    places = [*table.places, (table.name, table.config)]
    for name, config in places:
        folder = root / name
        if files := _files(folder, table.split, config):
            status = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
            return TableFiles(str(folder), hashlib.sha256(repr(status).encode()).hexdigest()[:16], files)
    wanted = f"{table.config or '**'}/{table.split}-*.parquet"
    raise TaskDataError(
        f"no {wanted} in any of {', '.join(str(root / name) for name, _ in places)}; docs/benchmarks.md has the schema"
    )


def on_the_hub(table: HubTable) -> TableFiles:
    """A table from the Hub, or its cache; `HF_HUB_OFFLINE` and other such variables are huggingface_hub's.

    Raises:
        TaskDataError: None of the datasets that have it can be downloaded; says why.
    """
    from huggingface_hub import snapshot_download

    reasons = []
    for dataset, config in table.places:
        pattern = f"*{config or ''}*{table.split}-*.parquet"
        patterns = [pattern, f"*{table.split}.parquet"]  # the latter is a split in one file, as MMStar's
        try:
            folder = Path(
                snapshot_download(dataset, repo_type="dataset", revision=table.revision, allow_patterns=patterns)
            )
        except (OSError, ValueError) as error:  # huggingface_hub's errors are among these
            reasons.append(f"{dataset}: {str(error).splitlines()[0]}")
            continue
        if files := _files(folder, table.split, config):
            return TableFiles(dataset, folder.name, files)
        reasons.append(f"{dataset}: has no {pattern}")
    raise TaskDataError(f"the Hub does not give it: {'; '.join(reasons)}")


def _files(folder: Path, split: str, config: str | None) -> tuple[Path, ...]:
    found = sorted(path for path in folder.rglob(f"{split}*.parquet") if _is_split(path, split))
    return tuple(path for path in found if config is None or config in path.relative_to(folder).parts[:-1])


def _is_split(path: Path, split: str) -> bool:
    return path.stem == split or path.name.startswith(f"{split}-")
