"""Whether a run keeps what it must, for CI: every line is something that fell. What is not known has not passed."""

from __future__ import annotations

from llava.eval.compare.table import Figure
from llava.eval.doctor.diagnosis import Budget, Diagnosis
from llava.eval.doctor.words import kept, percent

TASK = "task"
MEAN = "mean"


def failures(diagnosis: Diagnosis, least: float, *, of: str = TASK, lower_bound: bool = False) -> list[str]:
    """What keeps less than it must; none if all is well.

    Args:
        diagnosis: The run.
        least: The retention that is wanted, as a share.
        of: `task`, of each task under each budget; `mean`, of each budget's mean over tasks.
        lower_bound: Whether the interval's lower end must hold it too.
    """
    found = []
    for budget in diagnosis.budgets:
        if of == MEAN:
            found.append(_fallen(f"the mean over tasks under {budget.compression}", budget.mean, least, lower_bound))
            if budget.mean is None:
                found += _unknown(budget)
        else:
            for case in budget.cases.values():
                where = f"{case.task} under {budget.compression}"
                found.append(_fallen(where, case.retention, least, lower_bound))
            found += _unknown(budget)
    return [line for line in found if line]


def _fallen(where: str, retention: Figure | None, least: float, lower_bound: bool) -> str:
    if retention is None:
        return f"{where}: not known"
    if retention.value < least:
        return f"{where} keeps {kept(retention)} of all tokens, below {percent(least)}"
    if lower_bound and retention.low is None:
        return f"{where} keeps {kept(retention)} of all tokens, without an interval: its lower end is not known"
    if lower_bound and retention.low is not None and retention.low < least:
        return f"{where} keeps {kept(retention)} of all tokens; the lower end is below {percent(least)}"
    return ""


def _unknown(budget: Budget) -> list[str]:
    return [f"{task} under {budget.compression} is not known: {reason}" for task, reason in budget.missing.items()]
