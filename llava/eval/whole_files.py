"""Files that are there whole or not at all, and tables as text."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llava.json_text import parse_json
from llava.results.tables import markdown_table


def write_whole(path: Path, content: str | bytes) -> Path:
    """Writes a file in one step, its folder too where there is none; a kill leaves the old one.

    Args:
        path: The file.
        content: Its bytes, or its text, which becomes UTF-8.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)
    return path


def json_lines(rows: Iterable[Any]) -> str:
    """One JSON value a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_json_lines(text: str) -> list[Any]:
    """The values of such lines; empty lines are left out.

    Raises:
        ValueError: A line is not JSON.
    """
    # Not splitlines(): a value may hold what else Unicode takes for the end of a line.
    return [parse_json(line) for line in text.split("\n") if line.strip()]


__all__ = ["json_lines", "markdown_table", "read_json_lines", "write_whole"]
