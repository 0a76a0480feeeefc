"""A table as a picture: what is kept of vanilla against visual tokens, the mean and every benchmark.

Where every method has one budget only there is no curve to draw: then each benchmark is a line, and the place of a
point is what is kept. Axes begin near the lowest of our own values, so that differences show; the paper's may lie
outside.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llava.eval.report.table import Cell, Line, Table
from llava.results.words import tokens_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg")
COLUMNS = 2  # panels beside each other, so that a phone 400 pixels wide shows letters of 8
MEAN = "mean"
_PANEL = (3.6, 2.6)  # inches
_LINE = 0.42  # inches of a benchmark where there is one budget
_COLOURS = {"visionzip": "#2ec4b6", "random": "#8d99ae", "uniform": "#ff9f1c"}
_LEAST_SPAN = 4.0  # percent; less would show noise as a difference
_UNDATED = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}  # the same bytes from the same table

Point = tuple[float, float, float | None, float | None]  # tokens, what is kept, and the ends of its interval


def draw(table: Table, image_format: str = "png", columns: int = COLUMNS) -> bytes:
    """The picture.

    Args:
        table: What is drawn.
        image_format: One of `FORMATS`.
        columns: Panels beside each other.

    Raises:
        ImportError: Matplotlib is not installed (extra `demo`).
    """
    try:
        from matplotlib import rc_context
    except ImportError:
        raise ImportError("the picture needs matplotlib: pip install llava-visionzip[demo], or --no-picture") from None

    stream = io.BytesIO()
    with rc_context({"svg.hashsalt": "llava", "text.parse_math": False}):  # a $ in a folder's name is no formula
        figure = draw_figure(table, columns)
        figure.savefig(stream, format=image_format, dpi=140, metadata=_UNDATED[image_format])
    return stream.getvalue()


def draw_figure(table: Table, columns: int = COLUMNS) -> Figure:
    """The picture as matplotlib has it; see `draw`."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    if all(len(lines) == 1 for lines in _curves(table).values()):
        _draw_one_budget(figure, table)
    else:
        _draw_curves(figure, table, columns)
    _add_legend(figure)
    return figure


def draw_panel(axes: Axes, table: Table, panel: str) -> None:
    """Draws what is kept of vanilla against visual tokens: of a task, or the mean over the table's tasks (`mean`)."""
    axes.axhline(100, color="black", linewidth=0.8, linestyle="--")
    curves = {name: _points(lines, table, panel) for name, lines in _curves(table).items()}
    for name, points in curves.items():
        if points:
            x, y, errors = _with_errors(points)
            axes.errorbar(x, y, yerr=errors, marker="o", markersize=4, capsize=2, label=name, color=_COLOURS.get(name))
    for method, paper in _papers(table, panel).items():
        x, y = list(paper), list(paper.values())
        axes.plot(x, y, marker="s", markersize=4, markerfacecolor="none", linewidth=0.6, label=f"paper: {method}")
    own = [point for points in curves.values() for point in points]
    axes.set_ylim(*_limits(own))
    axes.set_xticks(sorted({point[0] for point in own}))
    axes.grid(alpha=0.3)


def _draw_curves(figure: Figure, table: Table, columns: int) -> None:
    """A panel a benchmark."""
    panels = _panels(table)
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure.set_size_inches(_PANEL[0] * columns, _PANEL[1] * rows + 0.6)
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (panel, heading) in zip(every, panels.items(), strict=False):
        draw_panel(axes, table, panel)
        axes.set_title(heading, fontsize=12)
        axes.tick_params(labelsize=10)
    for axes in every[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle("% of vanilla against visual tokens", fontsize=12)


def _draw_one_budget(figure: Figure, table: Table) -> None:
    """A line a benchmark, the mean on top; methods stand a little above each other."""
    panels, curves = _panels(table), _curves(table)
    figure.set_size_inches(4.2, _LINE * len(panels) * max(1.0, len(curves) / 3) + 1.2)
    axes = figure.subplots()
    axes.axvline(100, color="black", linewidth=0.8, linestyle="--")
    every: list[Point] = []
    for number, (name, lines) in enumerate(curves.items()):
        shift = 0.5 * ((number + 0.5) / len(curves) - 0.5)
        found = {place: point for place, panel in enumerate(panels) for point in _points(lines, table, panel)}
        if found:
            _, x, errors = _with_errors(list(found.values()))
            y = [place + shift for place in found]
            axes.errorbar(
                x,
                y,
                xerr=errors,
                fmt="o",
                markersize=5,
                capsize=2,
                label=_budget(name, lines[0]),
                color=_COLOURS.get(name),
            )
            every += found.values()
    tokens = {line.tokens for lines in curves.values() for line in lines}
    by_method: dict[str, list[tuple[float, int]]] = {}
    for place, panel in enumerate(panels):
        for method, paper in _papers(table, panel).items():
            by_method.setdefault(method, []).extend((value, place) for at, value in paper.items() if at in tokens)
    low, high = _limits(every)
    for method, points in by_method.items():
        if shown := [point for point in points if low <= point[0] <= high]:
            axes.plot(*zip(*shown, strict=True), "s", markersize=5, markerfacecolor="none", label=f"paper: {method}")
    axes.set_xlim(low, high)
    axes.set_yticks(range(len(panels)), list(panels.values()))
    axes.set_ylim(len(panels) - 0.5, -0.5)
    axes.set_xlabel("% of vanilla", fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(alpha=0.3)


def _panels(table: Table) -> dict[str, str]:
    """Headings of the mean and of every benchmark."""
    return {MEAN: f"mean of {len(table.tasks)}", **{column.task: column.heading for column in table.columns}}


def _curves(table: Table) -> dict[str, list[Line]]:
    """Lines of a method of a folder, with its options, all its budgets."""
    curves: dict[str, list[Line]] = {}
    for line in table.lines:
        if line is not table.vanilla:
            folder = line.label.removesuffix(line.compression)
            method = re.sub(r":[^,|]*", "", line.name.removeprefix(folder))
            name = f"{folder}{method}"
            # Matplotlib leaves out of a legend what begins with _.
            curves.setdefault(f" {name}" if name.startswith("_") else name, []).append(line)
    return curves


def _budget(name: str, line: Line) -> str:
    return f"{name}, {tokens_text(line.tokens)} tokens"


def _points(lines: Iterable[Line], table: Table, panel: str) -> list[Point]:
    """What the lines keep, by tokens; those without a retention are left out."""
    found: list[Point] = []
    for line in lines:
        cell: Cell | None = line.cells.get(panel)
        value, low, high = (line.mean(table.tasks), None, None) if panel == MEAN else (None, None, None)
        if cell is not None:
            value, low, high = cell.retention, cell.low, cell.high
        if value is not None:
            found.append((line.tokens, value, low, high))
    return sorted(found, key=lambda point: point[:2])


def _papers(table: Table, panel: str) -> Mapping[str, Mapping[int, float]]:
    """The paper's own figures: by method, what is kept by tokens."""
    if table.paper is None or table.paper.vanilla is None:
        return {}
    headings = table.headings(table.tasks if panel == MEAN else [panel])
    by_method: dict[str, dict[int, float]] = {}
    for row in sorted(table.paper.rows, key=lambda row: row.tokens):
        value = table.paper.mean(row, headings)
        if value is not None and row is not table.paper.vanilla:
            by_method.setdefault(row.method, {})[row.tokens] = value
    return by_method


def _with_errors(points: list[Point]) -> tuple[list[float], list[float], list[list[float]]]:
    """Tokens, values, and how far the intervals reach below and above them."""
    below = [0.0 if low is None else max(value - low, 0.0) for _, value, low, _ in points]
    above = [0.0 if high is None else max(high - value, 0.0) for _, value, _, high in points]
    return [point[0] for point in points], [point[1] for point in points], [below, above]


def _limits(points: Iterable[Point]) -> tuple[float, float]:
    """Ends of the axis of what is kept: our own values, their intervals and 100 fit in."""
    values = [value for point in points for value in point[1:] if value is not None] + [100.0]
    low, high = min(values), max(values)
    if high - low < _LEAST_SPAN:
        low = high - _LEAST_SPAN
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def _add_legend(figure: Figure) -> None:
    """One legend below all panels: inside, it would cover points."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    ordered = sorted(found, key=lambda label: label.startswith("paper: "))
    if ordered:
        wide = figure.get_size_inches()[0] > 2 * _PANEL[0]
        handles = [found[label] for label in ordered]
        figure.legend(handles, ordered, loc="outside lower center", ncols=4 if wide else 2, fontsize=9)
