"""Which images of the annotations are not there, and annotations without them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.data.records import Record, count_sources, images_of, source_table, write_records


class PresentImages:
    """Says whether images are there; every folder is listed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed: dict[str, set[str]] = {}

    def has(self, name: str) -> bool:
        """Whether the folder holds an image by this relative path."""
        parent, _, file = name.rpartition("/")
        if parent not in self._listed:
            try:
                self._listed[parent] = {entry.name for entry in os.scandir(self.folder / parent) if entry.is_file()}
            except (OSError, ValueError):  # no folder, or a name that no folder can have
                self._listed[parent] = set()
        return file in self._listed[parent]


def names_of(records: Iterable[Any]) -> list[str]:
    """Every image that the annotations name, once, in order; what is no relative path is left out."""
    names: dict[str, None] = {}
    for record in records:
        for name in images_of(record) if isinstance(record, dict) else []:
            if isinstance(name, str) and name and not name.startswith("/") and ".." not in name.split("/"):
                names[name] = None
    return list(names)


def is_complete(record: Any, missing: Mapping[str, str]) -> bool:
    """Whether no image of an entry is missing."""
    return not any(name in missing for name in images_of(record) if isinstance(name, str))


def write_report(path: Path, missing: Mapping[str, str], failed: Mapping[str, str]) -> None:
    """Writes what is missing: `{"images": {path: reason}, "files": {path: reason}}`; removes the file if nothing is."""
    if not missing and not failed:
        path.unlink(missing_ok=True)
        return
    content = {"images": dict(sorted(missing.items())), "files": dict(sorted(failed.items()))}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_reduced(path: Path, records: Sequence[Record], missing: Mapping[str, str]) -> str:
    """Writes the entries whose images are all there.

    Args:
        path: Where to; not the original.
        records: The annotations.
        missing: Images that are not there.

    Returns:
        A table of the entries kept and dropped, by source.
    """
    kept = [record for record in records if is_complete(record, missing)]
    dropped = [record for record in records if not is_complete(record, missing)]
    write_records(path, kept)
    return source_table([("kept", count_sources(kept)), ("dropped", count_sources(dropped))])
