"""results.json: a row per task and budget, with retention against the vanilla row of the same task.

Retention is of the task's main score, which `row["main_score"]` names.
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llava import __version__
from llava.eval.answers import AnswersKeyMismatch
from llava.eval.tasks import TASKS
from llava.eval.whole_files import markdown_table, write_whole
from llava.kinds import plugin_records
from llava.model.used_plugins import records_of
from llava.results.rows import circumstances, comparable, main_score, main_value, question_marks, read_content
from llava.results.task_facts import facts_of

Row = dict[str, Any]


def read_results(path: Path, fingerprint: str | None = None) -> list[Row]:
    """The rows of a results.json; none if it does not exist.

    Args:
        path: The file.
        fingerprint: Fingerprint of the model whose rows are wanted; None takes any.

    Raises:
        AnswersKeyMismatch: The rows are another model's.
        ValueError: The file is not a results.json.
    """
    if not path.exists():
        return []
    content = read_content(path)
    rows: list[Row] = content["rows"]
    model = content["run"]["model"]
    if fingerprint is not None and model != fingerprint:
        raise AnswersKeyMismatch(
            f"{path} holds the results of another model (fingerprint {model}, this one's is {fingerprint}); "
            "give another --output-dir, or remove the file"
        )
    return rows


def write_results(path: Path, rows: Sequence[Row], fingerprint: str, **run: Any) -> list[Row]:
    """Puts rows among those that the file already has, and works out retention.

    Args:
        path: The file; it is replaced in one step.
        rows: New rows, which get the commit, package versions and plug-ins of this process too; one takes the place of
            an old one with the same `identity`.
        fingerprint: Fingerprint of the model.
        **run: More about the run, kept under `run`.

    Returns:
        All rows of the file.

    Raises:
        AnswersKeyMismatch: The file holds another model's rows.
    """
    made_by: Row = {"versions": package_versions(), "commit": source_commit()}
    if plugins := plugin_records():
        made_by["plugins"] = plugins
    new = [row | made_by | _task_plugin(row["task"]) for row in rows]
    merged = {identity(row): row for row in [*read_results(path, fingerprint), *new]}
    done = with_retention(list(merged.values()))
    about = {"model": fingerprint, **made_by, **run}
    write_json(path, {"run": about, "rows": done})
    return done


def _task_plugin(task: str) -> Row:
    found = records_of({TASKS.plugin_name(task)})
    return {"task_plugin": found} if found else {}


def with_retention(rows: Sequence[Row]) -> list[Row]:
    """The rows, each with its main score over that of the vanilla row that was made and graded alike, or None."""
    vanilla = {circumstances(row): row for row in rows if row["compression"] == "none"}
    done = []
    for row in rows:
        base = vanilla.get(circumstances(row))
        value = None if base is None or not comparable(row, base) else main_value(base)
        done.append(row | {"retention": _ratio(main_value(row), value)})
    return done


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file in one step; what is not a number is null."""
    write_whole(path, json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base is not None and base > 0 else None


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def identity(row: Row) -> tuple[str, str]:
    """What a row is about: its budget, and all that a score depends on beside it.

    Rows over different numbers of samples stand beside each other: neither says what the other says.
    """
    return row["compression"], circumstances(row)


def package_versions() -> dict[str, str]:
    """Versions that a result depends on."""
    versions = {"llava-visionzip": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "pillow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions


@cache
def source_commit() -> str | None:
    """The commit of this package's source, `-dirty` where files differ from it; None where it is no checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=False)
        if tracked.returncode:
            return None  # installed, perhaps inside a checkout of something else
        command = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def tokens_of(row: Row) -> str:
    """Visual tokens a question: their number, or where it varies their mean, 95th percentile and maximum."""
    mean, p95, most = (row.get(name) for name in ("tokens", "tokens_p95", "tokens_max"))
    if mean is None or most is None or mean == most:
        return "-" if mean is None else f"{mean:.1f}" if isinstance(mean, float) else str(mean)
    return f"{mean:.1f} (p95 {p95:g}, max {most:g})"


def format_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    columns = ["task", "compression", "tokens", "score", "value", "retention"]
    columns += ["vision_ms", "prefill_ms", "n", "encodes_saved", "seconds"]
    return markdown_table([columns, *([_cell(name, row) for name in columns] for row in rows)])


def _cell(column: str, row: Row) -> str:
    if column == "score":
        return main_score(row)
    value = main_value(row) if column == "value" else row.get(column)
    if value is None:
        return "-"
    if column == "compression":
        return f"{value}{question_marks([row])}"
    if column == "value":
        return facts_of(row).show(value)
    if column == "retention":
        return f"{100 * value:.1f} %"
    if column == "tokens":
        return tokens_of(row)
    return f"{value:.1f}" if isinstance(value, float) else str(value)
