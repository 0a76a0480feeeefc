"""Which published data set a file is, as the record of `llava.data.prepare` says."""

from __future__ import annotations

from pathlib import Path

from llava.data.prepare.catalog import DATASETS
from llava.data.prepare.lock import LOCK_NAME, LockFile

REDUCED_SUFFIX = ".reduced.json"  # what `--drop-missing` leaves of a data set lies beside it


def dataset_of(data_path: str | Path) -> str | None:
    """The data set whose annotations a file holds, whole or reduced by `--drop-missing`.

    Args:
        data_path: Any file; one that `prepare` fetched lies in a root with its record.

    Returns:
        Its name for `prepare`; None if no record knows the file.

    Raises:
        ValueError: The record is damaged.
    """
    file = Path(data_path).absolute()
    if not file.is_file():
        return None
    root = next((folder for folder in file.parents if (folder / LOCK_NAME).is_file()), None)
    if root is None:
        return None
    recorded = LockFile(root).files
    for name, make in DATASETS.items():
        annotations = root / make().annotations.path
        entry = recorded.get(make().annotations.path)
        if entry is None:
            continue
        if file == annotations.with_suffix(REDUCED_SUFFIX) or (file == annotations and _has_size(file, entry["size"])):
            return name
    return None


def _has_size(file: Path, size: int) -> bool:
    return file.stat().st_size == size
