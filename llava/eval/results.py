"""results.json: a row per task and budget, with retention against the vanilla row of the same task."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llava import __version__
from llava.eval.answers import RunKeyMismatch

Row = dict[str, Any]

CIRCUMSTANCES = ("task", "n", "prompts", "conv_mode", "dtype", "generation")


def read_results(path: Path, fingerprint: str | None = None) -> list[Row]:
    """The rows of a results.json; none if it does not exist.

    Args:
        path: The file.
        fingerprint: Fingerprint of the model whose rows are wanted; None takes any.

    Raises:
        RunKeyMismatch: The rows are another model's.
        ValueError: The file is not a results.json.
    """
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows: list[Row] = content["rows"]
        model = content["run"]["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a results.json ({error!r}); move it away") from None
    if fingerprint is not None and model != fingerprint:
        raise RunKeyMismatch(
            f"{path} holds the results of another model (fingerprint {model}, this one's is {fingerprint}); "
            "give another --output-dir, or remove the file"
        )
    return rows


def write_results(path: Path, rows: Sequence[Row], fingerprint: str, **run: Any) -> list[Row]:
    """Puts rows among those that the file already has, and works out retention.

    Args:
        path: The file; it is replaced in one step.
        rows: New rows; one takes the place of an old one with the same `identity`.
        fingerprint: Fingerprint of the model.
        **run: More about the run, kept under `run`.

    Returns:
        All rows of the file.

    Raises:
        RunKeyMismatch: The file holds another model's rows.
    """
    merged = {identity(row): dict(row) for row in [*read_results(path, fingerprint), *rows]}
    vanilla = {_circumstances(row): row for row in merged.values() if row["method"] == "none"}
    for row in merged.values():
        base = vanilla.get(_circumstances(row))
        row["retention"] = row["accuracy"] / base["accuracy"] if base is not None and base["accuracy"] > 0 else None
    content = {"run": {"model": fingerprint, "versions": package_versions(), **run}, "rows": list(merged.values())}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
    return list(merged.values())


def identity(row: Row) -> tuple[str, str]:
    """What a row is about: its budget, and all that an accuracy depends on beside it.

    Rows over different numbers of samples stand beside each other: neither says what the other says.
    """
    return row["compression"], _circumstances(row)


def _circumstances(row: Row) -> str:
    """What two rows must have in common for their accuracies to be compared."""
    return json.dumps({name: row.get(name) for name in CIRCUMSTANCES}, sort_keys=True)


def package_versions() -> dict[str, str]:
    """Versions that a result depends on."""
    versions = {"llava-visionzip": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "pillow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def format_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    columns = ["task", "compression", "tokens", "accuracy", "retention", "vision_ms", "prefill_ms", "n", "seconds"]
    lines = [columns, *([_cell(name, row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in {"accuracy", "retention"}:
        return f"{100 * value:.1f} %"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
