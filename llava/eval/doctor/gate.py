"""Whether a run keeps what it must, for CI: every line is something that fell. What is not known has not passed."""

from __future__ import annotations

from collections.abc import Iterator

from llava.eval.compare.table import Figure
from llava.eval.doctor.diagnosis import Budget, Diagnosis
from llava.eval.doctor.words import kept, percent
from llava.results.bootstrap import fewest_groups
from llava.results.words import counted

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
    return [line for budget in diagnosis.budgets for line in _fallen(budget, least, of, lower_bound)]


def _fallen(budget: Budget, least: float, of: str, lower_bound: bool) -> Iterator[str]:
    under = f"under {budget.compression}"
    if of == MEAN:
        telling = min((case.telling for case in budget.cases.values()), default=0)
        figures = [(f"the mean over tasks {under}", budget.mean, telling)]
    else:
        cases = budget.cases.values()
        figures = [(f"{case.task} {under}", case.retention, case.telling) for case in cases]
    for where, retention, telling in figures:
        reason = "is not known" if retention is None else _why(retention, least, telling, lower_bound)
        if reason:
            yield f"{where} {reason}"
    if of == TASK or budget.mean is None:
        yield from (f"{task} {under} is not known: {reason}" for task, reason in budget.missing.items())


def _why(retention: Figure, least: float, telling: int, lower_bound: bool) -> str:
    """Why a retention is not enough, "" if it is."""
    said = f"keeps {kept(retention)} of all tokens"
    if retention.value < least:
        return f"{said}, below {percent(least)}"
    if not lower_bound:
        return ""
    if retention.low is None:
        return f"{said}, without an interval: its lower end is not known"
    if retention.low < least:
        return f"{said}; the lower end is below {percent(least)}"
    if least == 1:
        return f"{said}; no number of pictures is enough to tell that nothing is lost"
    needed = fewest_groups(least)
    if telling >= needed:
        return ""
    few = f"only {counted(telling, 'picture')} had something to lose, and {needed} are needed to tell {percent(least)}"
    return f"{said}, but {few}"
