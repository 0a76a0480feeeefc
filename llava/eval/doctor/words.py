"""Figures and findings in words, for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from llava.eval.compare.table import Figure
from llava.eval.doctor.diagnosis import Budget, Case, Diagnosis, Shift, Slice
from llava.eval.whole_files import markdown_table
from llava.results.words import counted, tokens_text

_FINDINGS = 6  # of a budget
_WHAT = {"precision": "precision of yes", "recall": "recall of yes", "f1": "F1 of yes", "yes said": "share of yes"}


def percent(share: float) -> str:
    """`96.2 %` of 0.9615."""
    return f"{100 * share:.1f} %"


def interval(figure: Figure, *, signed: bool = False, factor: float = 100.0) -> str:
    """The ends of an interval in brackets, "" where there is none."""
    if figure.low is None or figure.high is None:
        return ""
    sign = "+" if signed else ""
    return f"[{_rounded(factor * figure.low):{sign}.1f}, {_rounded(factor * figure.high):{sign}.1f}]"


def _rounded(value: float) -> float:
    """To one decimal; what becomes 0 has no sign."""
    return round(value, 1) + 0.0


def kept(figure: Figure | None) -> str:
    """A retention: `97.3 % [96.4, 98.2]`, `-` for none."""
    return "-" if figure is None else f"{percent(figure.value)} {interval(figure)}".rstrip()


def points(figure: Figure, *, in_shares: bool = True) -> str:
    """A change: `-2.7 [-3.6, -1.8]`, in percentage points or in the task's own."""
    factor = 100.0 if in_shares else 1.0
    return f"{_rounded(factor * figure.value):+.1f} {interval(figure, signed=True, factor=factor)}".rstrip()


def level(value: float, *, in_shares: bool = True) -> str:
    """What an answer earns on average."""
    return percent(value) if in_shares else f"{value:.2f}"


def shift_name(shift: Shift) -> str:
    """What a shift is of, in words."""
    return _WHAT[shift.name]


def findings(budget: Budget) -> list[str]:
    """What fell, or rose, by more than chance explains: types of questions first, those that lose most at the top."""
    found: list[tuple[float, str]] = []
    for case in budget.cases.values():
        found += [(each.gained - each.lost, line) for each, line in _slices(case)]
    ordered = [line for _, line in sorted(found, key=lambda pair: pair[0])]
    more = len(ordered) - _FINDINGS
    lines = ordered[:_FINDINGS] + [f"and {more} more, in the tables"] * (more > 0)
    for case in budget.cases.values():
        lines += _shifts(case)
        if case.down_sampling is not None and case.down_sampling.hard.share is not None:
            hard = case.down_sampling.hard
            lines.append(
                f"{case.task}: of {counted(hard.n, 'question')} that all tokens get right and plain "
                f"down-sampling gets wrong, {hard.right} are right here ({percent(hard.right / hard.n)})"
            )
    return lines or ["no change is larger than chance explains"]


def _slices(case: Case) -> Iterator[tuple[Slice, str]]:
    """What changed, type by type; the whole task, if it did and no type of it is large enough to be named."""
    named = [each for each in case.slices if each.is_large and each.change.excludes_zero]
    for each in named:
        yield each, f"{case.task}, {each.sort} {each.value!r}: {_fell(each, case)}"
    if not named and case.whole.is_large and case.whole.change.excludes_zero:
        yield case.whole, f"{case.task}: {_fell(case.whole, case)}"


def _fell(part: Slice, case: Case) -> str:
    before, after = (level(value, in_shares=case.in_shares) for value in (part.before, part.after))
    change = points(part.change, in_shares=case.in_shares)
    return f"{before} -> {after} ({change}); {part.lost} lost, {part.gained} gained of {part.n}"


def _shifts(case: Case) -> Iterator[str]:
    for shift in case.shifts:
        if shift.change.excludes_zero and shift.name in ("precision", "recall"):
            moved = f"{percent(shift.before)} -> {percent(shift.after)} ({points(shift.change)})"
            yield f"{case.task}: {shift_name(shift)} {moved}"


def summary(diagnosis: Diagnosis) -> str:
    """A table of all budgets and tasks, and the findings of each budget."""
    rows = [["budget", "tokens", "task", "kept of all tokens", "lost", "gained", "other words", "same"]]
    for budget, case in diagnosis.cases():
        counts = (case.whole.lost, case.whole.gained, case.whole.reworded, case.whole.same)
        name = diagnosis.columns[case.task].heading
        rows.append([budget.compression, tokens_text(budget.tokens), name, kept(case.retention), *map(str, counts)])
    blocks = [markdown_table(rows)]
    for budget in diagnosis.budgets:
        lines = findings(budget) if budget.cases else []
        lines += [f"{task} is not examined: {reason}" for task, reason in budget.missing.items()]
        blocks.append("\n".join([f"{budget.compression}:", *(f"  - {line}" for line in lines)]))
    return "\n\n".join(blocks)
