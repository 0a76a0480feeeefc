"""The rows of results.json, as those who write them and those who quote them read them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.results.task_facts import facts_of

CIRCUMSTANCES = ("task", "n", "prompts", "conv_mode", "dtype", "generation")
_BEFORE_COMMAS = re.compile(r" (?=(?:merge|seed)=)")  # version 0.1.0 wrote `random:64 seed=1`
JUDGE_SETTINGS = ("model", "served", "runs", "extra", "reading")


def read_content(file: Path) -> dict[str, Any]:
    """What a results.json holds: `run`, and `rows`, whose budgets are spelled in the one short form.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a results.json.
    """
    if file.exists() and not file.is_file():
        raise ValueError(f"{file} is not a file; move it away")
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for number, row in enumerate(content["rows"]):
            _ = row["task"], row["n"]
            _check_facts(row, number)
            row["compression"] = _BEFORE_COMMAS.sub(",", row["compression"])
        _ = content["run"]["model"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = error if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"{file} is not a results.json ({reason}); move it away") from None
    return content


def _check_facts(row: Mapping[str, Any], number: int) -> None:
    try:
        facts_of(row)
    except ValueError as error:
        raise ValueError(f"row {number}, {row['task']}: {error}") from None


def question_marks(rows: Iterable[Mapping[str, Any]]) -> str:
    """What a table adds to a method's name of how it reads the question; empty if it reads none, or nothing is known.

    Args:
        rows: Of results.json, all of one method.
    """
    rows = list(rows)
    marks = {
        "text-free": any(row.get("text_free") for row in rows),
        "with CLIP": any(row.get("clip_text") for row in rows),
        "not multi-turn safe": any(row.get("multi_turn_safe") is False for row in rows),
    }
    return "".join(f", {mark}" for mark, holds in marks.items() if holds)


def token_counts(counts: Sequence[int | float]) -> dict[str, int | float]:
    """What a row says of the visual tokens of its questions: their mean, 95th percentile and maximum.

    The percentile is the least of the numbers that 95 % of them do not exceed. Equal numbers are their own mean.
    """
    ranked = sorted(counts) or [0]
    mean = ranked[0] if ranked[0] == ranked[-1] else sum(ranked) / len(ranked)
    return {"tokens": mean, "tokens_p95": ranked[math.ceil(0.95 * len(ranked)) - 1], "tokens_max": ranked[-1]}


def circumstances(row: Mapping[str, Any]) -> str:
    """What two rows must have in common to be about the same questions, asked in the same way."""
    return json.dumps({name: row.get(name) for name in CIRCUMSTANCES}, sort_keys=True)


def same_judge(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows were graded by one judge in one way; rows that no judge has graded were."""
    own, others = row.get("judge") or {}, other.get("judge") or {}
    return all(own.get(name) == others.get(name) for name in JUDGE_SETTINGS)


def comparable(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether one row's score may be set in relation to the other's."""
    return not differences(row, other)


def differences(row: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of what keeps two rows from being `comparable`."""
    names = [name for name in (*CIRCUMSTANCES, "references") if row.get(name) != other.get(name)]
    if None not in (row.get("release"), other.get("release")) and row["release"] != other["release"]:
        names.append("release")
    if (row.get("task_plugin") or []) != (other.get("task_plugin") or []):  # an edited one may score otherwise
        names.append("task_plugin")
    if (row.get("rules") or "") != (other.get("rules") or ""):  # rows of older versions have none
        names.append("rules")
    return names if same_judge(row, other) else [*names, "judge"]


def main_score(row: Mapping[str, Any]) -> str:
    """Name of the score that stands for a row's task."""
    return str(row.get("main_score", "accuracy"))


def main_value(row: Mapping[str, Any]) -> float | None:
    """The score that stands for a row's task; None where there is none."""
    value = row.get(main_score(row))
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
