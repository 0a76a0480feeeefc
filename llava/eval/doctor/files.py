"""A diagnosis as JSON and as one page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

from llava.eval.compare.table import Figure
from llava.eval.doctor import words
from llava.eval.doctor.diagnosis import Case, Diagnosis, Group, Slice
from llava.eval.doctor.pictures import Card
from llava.eval.report.embedded import THUMBNAIL

_TEMPLATE = "doctor.html.jinja"
_LEAST_SPAN = 0.02  # of an axis: less would show noise as a difference


def to_json(diagnosis: Diagnosis, failed: Sequence[str] | None) -> dict[str, Any]:
    """All of it as plain JSON values; docs/doctor.md describes them.

    Args:
        diagnosis: What was found.
        failed: The lines of the gate; None where no retention was asked for.
    """
    budgets = [
        {
            "compression": budget.compression,
            "tokens": budget.tokens,
            "mean_retention": _figure(budget.mean),
            "findings": words.findings(budget) if budget.cases else [],
            "not_examined": budget.missing,
            "tasks": [_case(case) for case in budget.cases.values()],
        }
        for budget in diagnosis.budgets
    ]
    return {
        "run": {"folder": str(diagnosis.folder), **diagnosis.run},
        "tokens": diagnosis.tokens,
        "mean_over": diagnosis.mean_tasks,
        "budgets": budgets,
        "advice": diagnosis.advice,
        "notes": diagnosis.notes,
        "failed": None if failed is None else list(failed),
    }


def _case(case: Case) -> dict[str, Any]:
    down = case.down_sampling
    return {
        "task": case.task,
        "score": case.score,
        "before": case.before,
        "after": case.after,
        "retention": _figure(case.retention),
        "right_with_all_tokens": case.telling,
        "questions": _slice(case.whole),
        "only_all_tokens": case.only[0],
        "only_budget": case.only[1],
        "slices": [{"sort": each.sort, "value": each.value, **_slice(each)} for each in case.slices],
        "yes": {s.name: {"before": s.before, "after": s.after, "change": _figure(s.change)} for s in case.shifts},
        "down_sampling": None
        if down is None
        else {
            "compression": down.compression,
            "tokens": down.tokens,
            "wrong": _group(down.hard),
            "right": _group(down.easy),
        },
        "flips": {
            kind: [flip.sample.sample_id for flip in case.flips if flip.kind == kind] for kind in ("lost", "gained")
        },
    }


def _slice(part: Slice) -> dict[str, Any]:
    names = ("n", "pictures", "lost", "gained", "reworded", "same", "before", "after")
    return {name: getattr(part, name) for name in names} | {"change": _figure(part.change)}


def _group(group: Group) -> dict[str, Any]:
    return {"n": group.n, "right": group.right, "share": _figure(group.share)}


def _figure(figure: Figure | None) -> dict[str, float | None] | None:
    return None if figure is None else {"value": figure.value, "low": figure.low, "high": figure.high}


def to_html(diagnosis: Diagnosis, cards: Sequence[Card], failed: Sequence[str] | None, gate: str = "") -> str:
    """One page that needs no other file.

    Args:
        diagnosis: What was found.
        cards: Flipped questions with their pictures.
        failed: The lines of the gate; None where no retention was asked for.
        gate: What was asked for, in words.
    """
    from jinja2 import Template

    text = resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    page = Template(text, autoescape=True, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True)
    kept = [case.retention for _, case in diagnosis.cases()] + [b.mean for b in diagnosis.budgets if b.mean]
    changes = [each.change for _, case in diagnosis.cases() if case.in_shares for each in (case.whole, *case.slices)]
    return page.render(
        diagnosis=diagnosis,
        cards=cards,
        failed=failed,
        gate=gate,
        words=words,
        thumbnail=THUMBNAIL,
        kept_axis=_axis(kept, 1.0),
        change_axis=_axis(changes, 0.0),
        place=_place,
    )


def _axis(figures: Sequence[Figure], mark: float) -> tuple[float, float, float]:
    """The ends of an axis that shows all figures with their intervals and the mark, and the mark."""
    values = [value for each in figures for value in (each.value, each.low, each.high) if value is not None]
    low, high = min([mark, *values]), max([mark, *values])
    room = max(high - low, _LEAST_SPAN) * 0.05
    return low - room, high + room, mark


def _place(value: float, axis: tuple[float, float, float]) -> float:
    """Where a value stands on an axis, in percent of its length."""
    return round(100 * (value - axis[0]) / (axis[1] - axis[0]), 2)
