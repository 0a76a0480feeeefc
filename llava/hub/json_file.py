"""How JSON files of a release are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava.small_files import optional_json


def write_json(file: Path, entries: Mapping[str, Any], *, sort_keys: bool = True) -> None:
    """Writes entries with two spaces of indent, in UTF-8, with a line break at the end."""
    text = json.dumps(entries, indent=2, sort_keys=sort_keys, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


__all__ = ["optional_json", "write_json"]
