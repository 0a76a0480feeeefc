"""A table for a paper, in LaTeX."""

from __future__ import annotations

from llava.eval.report.table import Cell, Column, Table
from llava.results.words import tokens_text

_NONE = "--"
_STAR = "$^{*}$"
_SPECIAL = str.maketrans(
    {name: f"\\{name}" for name in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}  # others in LaTeX's old fonts
    | {"[": "{[}", "\n": " "}  # behind the end of a line, [ begins an option of it
)


def to_latex(table: Table) -> str:
    """A table for a paper, with rules of the package booktabs: of each method the scores, and below what is kept.

    A star marks scores over other questions than papers' figures; lines below the table say which.
    """
    head = ["Method", "Tokens", *(column.heading for column in table.columns), "Mean"]
    lines = [
        r"\begin{tabular}{lr" + "c" * (len(head) - 2) + "}",
        r"\toprule",
        " & ".join(heading.translate(_SPECIAL) for heading in head) + r" \\",
    ]
    notes: dict[str, None] = {}
    for line in table.lines:
        cells = [line.cells.get(column.task) for column in table.columns]
        found = [(column, cell) for column, cell in zip(table.columns, cells, strict=True) if cell is not None]
        notes |= dict.fromkeys(note for column, cell in found if (note := column.size_note(cell.row)))
        scores = [_score(column, cell) for column, cell in zip(table.columns, cells, strict=True)]
        kept = [_NONE if cell is None or cell.retention is None else rf"{cell.retention:.1f}\%" for cell in cells]
        lines += _latex_rows(line.name, tokens_text(line.tokens), scores, kept, line.mean(table.tasks))
    if table.paper is not None:
        for row in table.paper.rows:
            own = table.paper.retention(row) if table.paper.vanilla is not None else {}
            names = [column.heading for column in table.columns]
            scores = [_NONE if name not in row.scores else f"{row.scores[name]:.1f}" for name in names]
            kept = [_NONE if name not in own else rf"{own[name]:.1f}\%" for name in names]
            mean = table.paper.mean(row, table.headings(table.tasks))
            lines += _latex_rows(f"paper: {row.method}", str(row.tokens), scores, kept, mean)
    below = [rf"\par{{\footnotesize {_STAR}{note.translate(_SPECIAL)}\par}}" for note in notes]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *below]) + "\n"


def _score(column: Column, cell: Cell | None) -> str:
    if cell is None:
        return _NONE
    return f"{cell.score:.1f}" + _STAR * (column.size_note(cell.row) is not None)


def _latex_rows(label: str, tokens: str, scores: list[str], kept: list[str], mean: float | None) -> list[str]:
    shown = _NONE if mean is None else rf"{mean:.1f}\%"
    rows = ([label.translate(_SPECIAL), tokens, *scores, ""], ["", "", *kept, shown])
    return [r"\midrule", *(" & ".join(cells) + r" \\" for cells in rows)]


def escaped(text: str) -> str:
    """Text as LaTeX shows it: its special characters stand for themselves."""
    return text.translate(_SPECIAL)
