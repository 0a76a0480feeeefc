"""Scores for a model card, from the results.json of `llava.eval`; those of another model are refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.hub.run_facts import NEXT_TILES, RunFacts
from llava.results.paper import PaperRow, PaperTable, paper_columns, paper_tables
from llava.results.rows import comparable, main_score, main_value, question_marks, read_content
from llava.results.task_facts import SHARE, facts_of

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
    "YanweiLi/MGM-7B": "table14",
    "YanweiLi/Mini-Gemini-7B": "table14",
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
        vanilla: What it is compared with, on the same scale: the same questions without compression; None without.
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
    vanilla: float | None
    retention: float | None
    row: Mapping[str, Any]

    @property
    def marks(self) -> str:
        """How the method reads the question, to stand behind its name."""
        return question_marks([self.row])

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
        vanilla_is: What vanilla is, in words; None without one.
        unscored: Tasks that have answers and no score.
        run: The `run` entry of results.json.
    """

    own: Sequence[Score]
    vanilla_is: str | None
    unscored: Sequence[str]
    run: Mapping[str, Any]

    def of(self, compression: str) -> list[Score]:
        """Those with a budget."""
        return [score for score in self.own if score.compression == compression]


def read_scores(
    files: Sequence[Path],
    fingerprints: Iterable[str],
    vanilla_files: Sequence[Path] = (),
    base_fingerprints: Iterable[str] = (),
) -> Scores:
    """Reads results of the checkpoint, and of the model that it is compared with.

    Args:
        files: results.json files of the checkpoint.
        fingerprints: Of the run and of the released folder: what the results must be of.
        vanilla_files: results.json files of the base model, whose rows without compression are vanilla; without them
            vanilla is the checkpoint itself with all tokens.
        base_fingerprints: Of the base: what the vanilla files must be of; none where the base is not here.

    Raises:
        ValueError: A file is no results.json, or of another model.
    """
    known = set(fingerprints)
    base_known = set(base_fingerprints) or None
    own_rows, run = [], {}
    for file in files:
        content = _read_of(file, known, "this one's is", "evaluate this folder as it is now")
        run = content["run"]
        own_rows += content["rows"]
    said, rows = "this checkpoint with all visual tokens", own_rows
    if vanilla_files:
        advice = "evaluate the model that it was tuned from"
        rows = [row for file in vanilla_files for row in _read_of(file, base_known, "the base's is", advice)["rows"]]
        said = "the base model with all its tokens"
        if not base_known:
            said += " (so it was said to this card; that the results are the base's was not checked)"
    rows = [row for row in rows if row["compression"] == "none"]
    scored = [row for row in own_rows if main_value(row) is not None]

    def vanilla_of(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return next((base for base in rows if comparable(row, base) and main_value(base) is not None), None)

    own = [_score(row, vanilla_of(row)) for row in scored]
    own.sort(key=lambda score: (_place(score), score.compression != "none", -score.tokens))
    has_vanilla = any(score.vanilla is not None for score in own)
    unscored = sorted({str(row["task"]) for row in own_rows if main_value(row) is None})
    return Scores(own, said if has_vanilla else None, unscored, run)


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
    if facts.arguments is None and asked is None:
        return None  # tuned or not: which of the paper's rows it is like is not known
    if name is None or compression is None or compression.method != "visionzip" or method is None:
        return None
    if compression.then is not None or compression.adaptive is not None:
        return None  # the paper's numbers of tokens are what every layer reads of every image
    tokens = compression.num_tokens * (NEXT_TILES if facts.is_tiled else facts.own_tiles)
    rows = [row for row in tables[name].rows if (row.method.lower(), row.tokens) == (method.lower(), tokens)]
    return (tables[name], rows[0]) if rows else None


def _read_of(file: Path, known: set[str] | None, whose: str, advice: str) -> dict[str, Any]:
    """The content of a results.json, which must be of a known model; None does not check."""
    content = _read(file)
    model = content["run"]["model"]
    if known is not None and model not in known:
        raise ValueError(
            f"{file} holds the results of another model (fingerprint {model}, {whose} {' or '.join(sorted(known))}); "
            f"{advice}"
        )
    return content


def _read(file: Path) -> dict[str, Any]:
    try:
        content = read_content(file)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}; run llava eval first") from error
    if any("tokens" not in row for row in content["rows"]):
        raise ValueError(f"{file} is not a results.json of llava eval: a row has no tokens")
    return content


def _place(score: Score) -> tuple[int, str]:
    columns = paper_columns()
    return (columns.index(score.heading) if score.heading in columns else len(columns), score.task)


def _score(row: Mapping[str, Any], vanilla: Mapping[str, Any] | None) -> Score:
    facts = facts_of(row)
    value, base = main_value(row), None if vanilla is None else main_value(vanilla)
    assert value is not None  # rows without a score are sorted out before
    return Score(
        task=row["task"],
        heading=facts.paper_column or row["task"],
        metric=main_score(row),
        value=value * facts.factor,
        is_percent=facts.scale == SHARE,
        compression=row["compression"],
        tokens=row["tokens"],
        n=row["n"],
        vanilla=None if base is None else base * facts.factor,
        retention=None if base is None or base <= 0 else 100 * value / base,
        row=row,
    )
