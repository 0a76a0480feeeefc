"""The section of a model card that has scores, retention, and the paper's row beside."""

from __future__ import annotations

from collections.abc import Sequence

from llava.hub.card.scores import Score, Scores
from llava.hub.run_facts import RunFacts
from llava.results.paper import PaperRow, PaperTable


def score_sections(run: RunFacts, scores: Scores | None, paper: tuple[PaperTable, PaperRow] | None) -> list[str]:
    """The sections; none if nothing was evaluated."""
    if scores is None:
        return []
    head = ["benchmark", "score", "compression", "visual tokens", "questions", "this", "vanilla", "retention"]
    if paper is not None:
        head += ["paper", "paper's retention"]
    rows = [_row(score, run, paper) for score in scores.own]
    lines = [f"## Scores\n\n{_grid(head, rows)}" if rows else "## Scores\n\nNone of the answers is scored yet."]
    said = [f"Vanilla is {scores.vanilla_is}; retention is relative to it."] if scores.vanilla_is else []
    if scores.vanilla_is is None and rows:
        said.append("There is nothing to compare with: no results without compression of the same setting.")
    if paper is not None:
        table, row = paper
        said.append(
            f"The paper's row is `{row.method}` with {row.tokens} tokens of {table.name} (arXiv 2412.04467), "
            f"{table.model}; its printed mean is {row.average:g} %."
        )
    said += list(dict.fromkeys(f"{score.heading}: {note}" for score in scores.own for note in _notes(score)))
    if scores.unscored:
        said.append(f"Answered, but not scored here: {', '.join(scores.unscored)}.")
    settings = sorted({f"{score.row.get('conv_mode')}, {score.row.get('dtype')}" for score in scores.own})
    said += [f"Template and dtype: {'; '.join(settings)}."] if settings else []
    if scores.run.get("commit"):
        said.append(f"Measured by `llava.eval` at commit `{scores.run['commit']}`.")
    return [*lines, "\n".join(f"- {line}" for line in said)]


def _row(score: Score, run: RunFacts, paper: tuple[PaperTable, PaperRow] | None) -> list[str]:
    cells = [score.heading, score.metric, "none" if score.compression == "none" else f"`{score.compression}`"]
    cells += [f"{score.tokens:g}", f"{score.n:,}", _shown(score, score.value)]
    cells += [_shown(score, score.vanilla), "-" if score.retention is None else f"{score.retention:.1f} %"]
    if paper is None:
        return cells
    table, row = paper
    is_same = score.compression == str(run.compression) and score.heading in row.scores
    if not is_same:
        return [*cells, "-", "-"]
    kept = table.retention(row)[score.heading] if table.vanilla is not None else None
    return [*cells, f"{row.scores[score.heading]:g}", "-" if kept is None else f"{kept:.1f} %"]


def _shown(score: Score, value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}{' %' if score.is_percent else ''}"


def _notes(score: Score) -> list[str]:
    row = score.row
    notes = [str(row["size_note"])] if row.get("size_note") else []
    counted = (("errors", "questions had no answer"), ("bad_rows", "rows of the data were left out"))
    notes += [f"{len(row[name])} {said} (`{score.compression}`)" for name, said in counted if row.get(name)]
    if row.get("truncated"):
        notes.append(f"{len(row['truncated'])} prompts were cut at the model's length (`{score.compression}`)")
    judge = row.get("judge") or {}
    if judge.get("model"):
        notes.append(f"graded by {judge['model']}")
    notes += [
        f"asked from {each['dataset']} at {each.get('revision', 'an unknown revision')}" for each in score.datasets
    ]
    return notes


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
