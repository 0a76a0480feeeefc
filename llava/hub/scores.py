"""Scores for a model card, from the results.json of `llava.eval`; those of another model are refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.hub.run_facts import NEXT_TILES, RunFacts
from llava.paper import COLUMNS, PaperRow, PaperTable, paper_tables
from llava.result_rows import OWN_SCALES, circumstances, comparable, main_value

_PAPER_METHODS = {None: "VisionZip", "projector": "VisionZip_ft", "finetune": "VisionZip_train"}  # by stage

# Which table of the paper is about a base model; its tuned rows tune that model's projector.
_TABLES = {
    "liuhaotian/llava-v1.5-7b": "table1",
    "llava-hf/llava-1.5-7b-hf": "table1",
    "liuhaotian/llava-v1.5-13b": "table10",
    "llava-hf/llava-1.5-13b-hf": "table10",
    "liuhaotian/llava-v1.6-vicuna-7b": "table2",
    "llava-hf/llava-v1.6-vicuna-7b-hf": "table2",
    "liuhaotian/llava-v1.6-vicuna-13b": "table13",
    "llava-hf/llava-v1.6-vicuna-13b-hf": "table13",
}


@dataclass(frozen=True)
class Score:
    """A main score.

    Attributes:
        task: Name of the task.
        heading: The paper's name of the benchmark, where it has one; else the task's.
        metric: Which of the task's scores it is.
        value: In percent, or points where `is_percent` is False.
        is_percent: Whether the scale is percent.
        compression: In its short form; `none` for all tokens.
        tokens: Visual tokens a question.
        n: Number of questions.
        retention: In percent of vanilla; None where there is nothing to compare with.
        row: The row of results.json.
    """

    task: str
    heading: str
    metric: str
    value: float
    is_percent: bool
    compression: str
    tokens: float
    n: int
    retention: float | None
    row: Mapping[str, Any]

    @property
    def datasets(self) -> list[Mapping[str, str]]:
        """The Hub datasets that were asked, where the run says so: `dataset`, `revision`."""
        data = self.row.get("data")
        return (
            [each for each in data if isinstance(each, dict) and each.get("dataset")] if isinstance(data, list) else []
        )


@dataclass(frozen=True)
class Scores:
    """All that a card says of scores.

    Attributes:
        own: The checkpoint's, every budget it was measured with.
        vanilla: What retention is relative to, by task.
        vanilla_is: What vanilla is, in words; None without one.
        unscored: Tasks that have answers and no score.
        run: The `run` entry of results.json.
    """

    own: Sequence[Score]
    vanilla: Mapping[str, Score]
    vanilla_is: str | None
    unscored: Sequence[str]
    run: Mapping[str, Any]

    def of(self, compression: str) -> list[Score]:
        """Those with a budget."""
        return [score for score in self.own if score.compression == compression]


def read_scores(files: Sequence[Path], fingerprints: Iterable[str], vanilla_files: Sequence[Path] = ()) -> Scores:
    """Reads results of the checkpoint, and of the model that it is compared with.

    Args:
        files: results.json files of the checkpoint.
        fingerprints: Of the run and of the released folder: what the results must be of.
        vanilla_files: results.json files of the base model, whose rows without compression are vanilla; without them
            vanilla is the checkpoint itself with all tokens.

    Raises:
        ValueError: A file is no results.json, or of another model.
    """
    known = set(fingerprints)
    own_rows, run = [], {}
    for file in files:
        content = _read(file)
        run = content["run"]
        if run["model"] not in known:
            raise ValueError(
                f"{file} holds the results of another model (fingerprint {run['model']}, this one's is "
                f"{' or '.join(sorted(known))}); evaluate this folder as it is now"
            )
        own_rows += content["rows"]
    base_rows = [row for file in vanilla_files for row in _read(file)["rows"] if row["compression"] == "none"]
    said = "the base model with all its tokens" if vanilla_files else "this checkpoint with all visual tokens"
    rows = base_rows if vanilla_files else [row for row in own_rows if row["compression"] == "none"]
    by_setting = {circumstances(row): row for row in rows}
    scored = [row for row in own_rows if main_value(row) is not None]

    def vanilla_of(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        base = by_setting.get(circumstances(row))
        return base if base is not None and comparable(row, base) else None

    own = [_score(row, vanilla_of(row)) for row in scored]
    own.sort(key=lambda score: (_place(score.task), score.compression != "none", -score.tokens))
    used = [base for score in own if (base := vanilla_of(score.row)) is not None and main_value(base) is not None]
    vanilla = {base["task"]: _score(base, None) for base in used}
    unscored = sorted({str(row["task"]) for row in own_rows if main_value(row) is None})
    return Scores(own, vanilla, said if vanilla else None, unscored, run)


def paper_row(facts: RunFacts, base: str | None, asked: str | None) -> tuple[PaperTable, PaperRow] | None:
    """The paper's row of the same model, method and budget; None if it has none.

    Args:
        facts: Of the run.
        base: The base model by its name on the Hub.
        asked: Name of a table, in place of the one that is about the base.

    Raises:
        ValueError: There is no such table.
    """
    tables = paper_tables()
    if asked is not None and asked not in tables:
        raise ValueError(f"--paper: no table {asked!r}; there are: {', '.join(tables)}")
    name = asked or _TABLES.get(base or "")
    compression, method = facts.compression, _PAPER_METHODS.get(facts.stage)
    if name is None or compression is None or compression.method != "visionzip" or method is None:
        return None
    tokens = compression.num_tokens * (NEXT_TILES if facts.is_next else 1)
    rows = [row for row in tables[name].rows if (row.method.lower(), row.tokens) == (method.lower(), tokens)]
    return (tables[name], rows[0]) if rows else None


def paper_heading(task: str) -> str | None:
    """The paper's name of a task's benchmark."""
    return next((heading for heading, column in COLUMNS.items() if column.task == task), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for row in content["rows"]:
            _ = row["task"], row["compression"], row["n"], row["tokens"]
        _ = content["run"]["model"]
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}; run python -m llava.eval first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a results.json of llava.eval ({error!r})") from error
    return content


def _place(task: str) -> tuple[int, str]:
    tasks = [column.task for column in COLUMNS.values()]
    return (tasks.index(task) if task in tasks else len(tasks), task)


def _score(row: Mapping[str, Any], vanilla: Mapping[str, Any] | None) -> Score:
    metric = str(row.get("main_score", "accuracy"))
    column = next((column for column in COLUMNS.values() if (column.task, column.score) == (row["task"], metric)), None)
    scale = column.scale if column is not None else 1.0 if metric in OWN_SCALES else 100.0
    value, base = main_value(row), None if vanilla is None else main_value(vanilla)
    assert value is not None  # rows without a score are sorted out before
    return Score(
        task=row["task"],
        heading=paper_heading(row["task"]) or row["task"],
        metric=metric,
        value=value * scale,
        is_percent=scale == 100.0,
        compression=row["compression"],
        tokens=row["tokens"],
        n=row["n"],
        retention=None if base is None or base <= 0 else 100 * value / base,
        row=row,
    )
