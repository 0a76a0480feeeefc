"""A comparison for a paper, in LaTeX."""

from __future__ import annotations

from llava.eval.compare.files import NOTHING, cost_cells, tenths, yes_or_no
from llava.eval.compare.table import Comparison, Entry, Figure
from llava.eval.report.latex import escaped
from llava.results.words import tokens_text

_NONE = "--"


def to_latex(comparison: Comparison) -> str:
    """Two tables with rules of the package booktabs, what is measured here and what a paper is quoted with."""
    tables = [_measured(comparison)]
    if comparison.quoted is not None:
        quoted = comparison.quoted
        head = ["Method", "Tokens", *map(escaped, quoted.columns)]
        lines = [
            [escaped(row.method), str(row.tokens), *(f"{row.scores[name]:g}" for name in quoted.columns)]
            for row in quoted.rows
        ]
        comment = f"% Quoted, not measured here: {quoted.name} of arXiv 2412.04467, {quoted.model}"
        tables.append("\n".join([comment, *_tabular("lr" + "c" * len(quoted.columns), [head], [lines])]))
    return "\n\n".join(tables) + "\n"


def _measured(comparison: Comparison) -> str:
    columns = comparison.table.columns
    head = ["Method", "Tokens", *(escaped(column.heading) for column in columns), r"Mean (\%)", r"$\Delta$ VisionZip"]
    head += ["Own ms", "First token ms", "KV MiB", "Every turn", "Servable"]
    groups: list[list[list[str]]] = []
    for tokens in (None, *comparison.budgets):
        found = [entry for entry in comparison.entries if entry.tokens == tokens]
        groups.append([_row(entry, comparison) for entry in found])
    form = "lr" + "c" * (len(head) - 2)
    return "\n".join(["% Measured here", *_tabular(form, [head], [group for group in groups if group])])


def _row(entry: Entry, comparison: Comparison) -> list[str]:
    cells = [entry.line.cells.get(column.task) for column in comparison.table.columns]
    scores = [_NONE if cell is None else f"{cell.score:.1f}" for cell in cells]
    _, own, _, _, size = (_NONE if cell == NOTHING else cell for cell in cost_cells(entry))
    first = entry.costs.first_token_ms
    marks = [yes_or_no(entry.marks.multi_turn), yes_or_no(entry.marks.servable)]
    figures = [_figure(entry.mean), _figure(entry.mean_against, signed=True)]
    waits = _NONE if first is None else f"{first:.1f}"
    return [escaped(entry.label), tokens_text(entry.line.tokens), *scores, *figures, own, waits, size, *marks]


def _tabular(form: str, head: list[list[str]], groups: list[list[list[str]]]) -> list[str]:
    lines = [rf"\begin{{tabular}}{{{form}}}", r"\toprule", *map(_line, head)]
    for group in groups:
        lines += [r"\midrule", *map(_line, group)]
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _figure(figure: Figure | None, *, signed: bool = False) -> str:
    if figure is None:
        return _NONE
    value = tenths(figure.value, signed)
    if figure.low is None or figure.high is None:
        return f"${value}$"
    return rf"${value}$ {{\scriptsize [{tenths(figure.low, signed)}, {tenths(figure.high, signed)}]}}"
