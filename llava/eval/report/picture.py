"""A table as a picture: what is kept of vanilla against visual tokens, the mean and every benchmark."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from llava.eval.report.table import Cell, Line, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 4
_COLOURS = {"visionzip": "#2ec4b6", "random": "#8d99ae", "uniform": "#ff9f1c"}


def draw(table: Table) -> bytes:
    """A PNG.

    Raises:
        ImportError: Matplotlib is not installed (extra `demo`).
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("the picture needs matplotlib: pip install llava-visionzip[demo], or --no-picture") from None

    panels = ["mean", *(column.task for column in table.columns)]
    headings = [f"mean of {len(table.tasks)}", *(column.heading for column in table.columns)]
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(3.6 * min(_COLUMNS, len(panels)), 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, min(_COLUMNS, len(panels)), squeeze=False)
    every = [axes for line in grid for axes in line]
    for axes, panel, heading in zip(every, panels, headings, strict=False):
        draw_panel(axes, table, panel)
        axes.set_title(heading, fontsize=10)
    for axes in every[len(panels) :]:
        axes.set_axis_off()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def draw_panel(axes: Axes, table: Table, panel: str) -> None:
    """Draws what is kept of vanilla against visual tokens: of a task, or the mean over the table's tasks (`mean`)."""
    axes.axhline(100, color="black", linewidth=0.8, linestyle="--")
    for name, lines in _curves(table).items():
        points = [(line.tokens, *_value(line, table, panel)) for line in lines]
        known = sorted((x, y, low, high) for x, y, low, high in points if y is not None)
        if not known:
            continue
        x, y = [point[0] for point in known], [point[1] for point in known]
        below = [point[1] - point[2] if point[2] is not None else 0.0 for point in known]
        above = [point[3] - point[1] if point[3] is not None else 0.0 for point in known]
        errors = [[max(value, 0.0) for value in side] for side in (below, above)]
        colour = _COLOURS.get(name)
        axes.errorbar(x, y, yerr=errors, marker="o", markersize=4, capsize=2, label=name, color=colour)
    _draw_paper(axes, table, panel)
    axes.set_xlabel("visual tokens", fontsize=8)
    axes.set_ylabel("% of vanilla", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7)


def _draw_paper(axes: Axes, table: Table, panel: str) -> None:
    """The paper's own figures, hollow."""
    if table.paper is None or table.paper.vanilla is None:
        return
    headings = table.headings(table.tasks if panel == "mean" else [panel])
    by_method: dict[str, list[tuple[int, float]]] = {}
    for row in table.paper.rows:
        value = table.paper.mean(row, headings)
        if value is not None and row is not table.paper.vanilla:
            by_method.setdefault(row.method, []).append((row.tokens, value))
    for method, points in by_method.items():
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, y, marker="s", markersize=4, markerfacecolor="none", linewidth=0.6, label=f"paper: {method}")


def _curves(table: Table) -> dict[str, list[Line]]:
    """Lines of a method of a folder, all its budgets."""
    curves: dict[str, list[Line]] = {}
    for line in table.lines:
        if line is not table.vanilla:
            curves.setdefault(re.sub(r":\S+", "", line.label), []).append(line)
    return curves


def _value(line: Line, table: Table, panel: str) -> tuple[float | None, float | None, float | None]:
    """Retention and the ends of its interval."""
    if panel == "mean":
        return line.mean(table.tasks), None, None
    cell: Cell | None = line.cells.get(panel)
    return (cell.retention, cell.low, cell.high) if cell is not None else (None, None, None)
