"""A comparison as one SVG that a phone can show: retention against tokens, and below it against measured time.

It is drawn by hand, so that it needs no package, is the same bytes from the same table, and no two labels overlap: the
labels of a panel stand in a column beside it, a line apart from each other at least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from llava.eval.compare.methods import VISIONZIP, baselines, name_without_budget
from llava.eval.compare.table import Comparison, Entry
from llava.results.words import counted

_WIDTH, _LEFT, _TOP, _BOTTOM, _PLOT = 420, 40, 34, 40, 190
_LINE = 14  # pixels between two labels; letters are 11 high
_LETTER = 6.1  # pixels that a letter of size 11 takes at most, on average
_MOST_LETTERS = 28
_MOST_TICKS = 6
_LEAST_SPAN = 4.0  # percent; less would show noise as a difference
_THICK, _THIN = 3.0, 1.2
_HIGHLIGHT = "#0b9e91"
_WANTED = "#d62839"
_BASELINES = ("#5c677d", "#e07a00", "#8338ec", "#b5651d")
_OTHERS = (
    *("#3a86ff", "#d62839", "#6a994e", "#a44a8f", "#386fa4", "#bc6c25", "#7f5539", "#577590", "#c77dff"),
    *("#b08900", "#ef476f", "#264653", "#2a9134", "#6d597a", "#e76f51", "#0077b6", "#9d0208", "#606c38"),
)

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A method's points in a panel, by x.

    Attributes:
        label: Of the method.
        colour: Of line and label.
        width: Of the line.
        dash: SVG's dash pattern, "" for none.
        points: Tokens or milliseconds, and percent.
    """

    label: str
    colour: str
    width: float
    dash: str
    points: list[Point]


def to_svg(comparison: Comparison, wanted: float | None = None) -> str:
    """The picture; VisionZip is thick, baselines are dashed, and what a tuned model gives is dotted.

    Args:
        comparison: The table.
        wanted: Percent of all tokens that a line marks; None for no line.
    """
    panels = [
        _panel(comparison, "visual tokens of an image", lambda entry: entry.line.tokens, wanted),
        _panel(comparison, "ms to the first token, measured", lambda entry: entry.costs.first_token_ms, wanted),
    ]
    top, drawn = 22.0, []
    for height, body in panels:
        drawn.append(f'<g transform="translate(0 {top:g})">\n{body}\n</g>')
        top += height
    count = len(comparison.table.tasks)
    mean = f"Mean of {counted(count, 'task')}, % of all tokens"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top:g}" viewBox="0 0 {_WIDTH} {top:g}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="11">\n'
        f'<rect width="{_WIDTH}" height="{top:g}" fill="white"/>\n'
        f'<text x="8" y="16" font-size="13" font-weight="bold">{escape(mean)}</text>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def _panel(
    comparison: Comparison, title: str, x_of: Callable[[Entry], float | None], wanted: float | None
) -> tuple[float, str]:
    """Height and elements of a panel."""
    curves = _curves(comparison, x_of)
    heading = f'<text x="{_LEFT}" y="20" font-size="12">against {escape(title)}</text>'
    if not curves:
        return 46.0, f'{heading}\n<text x="{_LEFT}" y="38" fill="#777">not measured</text>'
    inner = max(_PLOT, _LINE * (len(curves) + 1))
    right = _WIDTH - 10 - _LETTER * max(len(_short(curve.label)) for curve in curves) - 14
    marked = [] if wanted is None else [wanted]
    low, high = _limits([*marked, *(y for curve in curves for _, y in curve.points)])
    xs = sorted({x for curve in curves for x, _ in curve.points})
    x_low, x_high = xs[0], xs[-1] if xs[-1] > xs[0] else xs[0] + 1.0

    def place(point: Point) -> Point:
        x = _LEFT + 8 + (point[0] - x_low) / (x_high - x_low) * (right - _LEFT - 16)
        return x, _TOP + (high - point[1]) / (high - low) * inner

    parts = [heading, *_axes(low, high, inner, right, place), *_x_ticks(xs, inner, place)]
    for value in marked:
        y = place((0.0, value))[1]
        parts.append(f'<path d="M{_LEFT} {y:.1f} H{right:.1f}" stroke="{_WANTED}" stroke-dasharray="2 2"/>')
    ordered = sorted(curves, key=lambda curve: (place(curve.points[-1])[1], curve.label))
    heights = spread([place(curve.points[-1])[1] for curve in ordered], _LINE, _TOP, _TOP + inner)
    for curve, height in zip(ordered, heights, strict=True):
        parts += _curve(curve, [place(point) for point in curve.points], right + 14, height)
    return _TOP + inner + _BOTTOM, "\n".join(parts)


def _curves(comparison: Comparison, x_of: Callable[[Entry], float | None]) -> list[Curve]:
    """All methods with what they keep; plain VisionZip last, so that it is drawn on top."""
    named = [method.name for method in baselines()]
    found: list[Curve] = []
    others = 0
    for method in dict.fromkeys(entry.method for entry in comparison.entries):
        entries = [entry for entry in comparison.entries if entry.method == method]
        points = sorted((x, e.mean.value) for e in entries if e.mean is not None and (x := x_of(e)) is not None)
        if not points:
            continue
        first = entries[0]
        name = "" if first.budget is None else name_without_budget(first.budget)
        dotted = "2 3" if first.tuned_for else ""
        if first.budget is None:
            found.append(Curve(method, "black", _THIN, "", points))
        elif name == VISIONZIP:
            found.append(Curve(method, _HIGHLIGHT, _THICK, dotted, points))
        elif name in named:
            found.append(Curve(method, _BASELINES[named.index(name) % len(_BASELINES)], 2.0, dotted or "5 3", points))
        else:
            found.append(Curve(method, _OTHERS[others % len(_OTHERS)], _THIN, dotted, points))
            others += 1
    return sorted(found, key=lambda curve: curve.width == _THICK)


def spread(wanted: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Heights near the wanted ones, none nearer to the next than a distance.

    Args:
        wanted: Ascending.
        distance: Between two at least.
        low: Of the first at least.
        high: Of the last at most, if all fit in.
    """
    heights: list[float] = []
    for height in wanted:
        heights.append(max(height, low, heights[-1] + distance) if heights else max(height, low))
    limit = max(high, low + distance * (len(heights) - 1))
    for number in reversed(range(len(heights))):
        heights[number] = min(heights[number], limit)
        limit = heights[number] - distance
    return heights


def _curve(curve: Curve, points: Sequence[Point], label_x: float, label_y: float) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = f' stroke-dasharray="{curve.dash}"' if curve.dash else ""
    style = f'stroke="{curve.colour}" stroke-width="{curve.width:g}" fill="none"'
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{curve.width + 1:g}" fill="{curve.colour}"/>' for x, y in points]
    (last_x, last_y), weight = points[-1], ' font-weight="bold"' if curve.width == _THICK else ""
    return [
        f'<polyline points="{path}" {style}{dash}/>',
        *dots,
        f'<path d="M{last_x:.1f} {last_y:.1f} L{label_x - 3:.1f} {label_y:.1f}" stroke="{curve.colour}" '
        'stroke-width="0.6" opacity="0.5" fill="none"/>',
        f'<text class="label" x="{label_x:.1f}" y="{label_y + 4:.1f}" fill="{curve.colour}"{weight}>'
        f"<title>{escape(curve.label)}</title>{escape(_short(curve.label))}</text>",
    ]


def _axes(low: float, high: float, inner: float, right: float, place: Callable[[Point], Point]) -> list[str]:
    parts = [f'<rect x="{_LEFT}" y="{_TOP}" width="{right - _LEFT:.1f}" height="{inner:g}" fill="none" stroke="#999"/>']
    for value in _round_values(low, high):
        y = place((0.0, value))[1]
        style = 'stroke="#333" stroke-dasharray="4 3"' if value == 100 else 'stroke="#ddd"'
        parts.append(
            f'<path d="M{_LEFT} {y:.1f} H{right:.1f}" {style}/>'
            f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{value:g}</text>'
        )
    return parts


def _round_values(low: float, high: float) -> list[float]:
    """At most seven round numbers between two ends."""
    steps = (factor * 10.0**power for power in range(-3, 9) for factor in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step <= _MOST_TICKS)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def _x_ticks(values: Sequence[float], inner: float, place: Callable[[Point], Point]) -> list[str]:
    """The points' own places where they are few, else round numbers; as many as can stand beside each other."""
    if len(values) > _MOST_TICKS:
        values = _round_values(values[0], values[-1])
    parts: list[str] = []
    free = 0.0
    for value in values:
        x, text = place((value, 0.0))[0], f"{value:.3g}" if value < 1000 else f"{value:.0f}"
        half = len(text) * _LETTER / 2
        if x - half >= free:
            parts.append(f'<text x="{x:.1f}" y="{_TOP + inner + 15:g}" text-anchor="middle" fill="#555">{text}</text>')
            free = x + half + 4
    return parts


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the axis: our own values and 100 fit in."""
    low, high = min(*values, 100.0), max(*values, 100.0)
    low = min(low, high - _LEAST_SPAN)
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def _short(label: str) -> str:
    return label if len(label) <= _MOST_LETTERS else f"{label[: _MOST_LETTERS - 1]}…"
