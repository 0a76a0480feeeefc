"""How JSON files of a release are read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava.model.checkpoints.files import read_json


def optional_json(folder: Path, name: str) -> dict[str, Any]:
    """The entries of a folder's file; none if it is not there.

    Raises:
        CheckpointError: It is there and damaged.
    """
    return read_json(folder / name) if (folder / name).is_file() else {}


def write_json(file: Path, entries: Mapping[str, Any], *, sort_keys: bool = True) -> None:
    """Writes entries with two spaces of indent, in UTF-8, with a line break at the end."""
    text = json.dumps(entries, indent=2, sort_keys=sort_keys, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
