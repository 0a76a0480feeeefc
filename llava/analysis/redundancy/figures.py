"""The two figures: attention maps of pictures, and how attention is spread over a set of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llava.analysis.paper_figure import COLOURS, PAGE, STYLES, paper_style, save_figure, style_legend
from llava.analysis.redundancy.measure import Measured
from llava.analysis.redundancy.spread import Distribution, Spread, spread_of
from llava.model.configuration import CompressionConfig
from llava.model.stages import methods_of
from llava.results.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_MAPS = 8  # of a tower; of more layers some are left out, evenly
_MAP_INCHES = 1.15
_PANEL_HEIGHT = 2.2
_BRIGHTEST = 99.0  # percentile of the maps that is drawn as the brightest
_BAND = 0.15  # opacity


@dataclass(frozen=True)
class TowerResult:
    """A tower's name and what was measured of it.

    Attributes:
        name: For titles and legends.
        grid: (h, w), patches of a tile.
        has_cls: Whether the attention is a CLS token's; else it is what a patch receives from all.
        num_layers: Encoder layers.
        measured: The rest.
    """

    name: str
    grid: tuple[int, int]
    has_cls: bool
    num_layers: int
    measured: Measured

    def spreads(self) -> dict[int, Spread]:
        """Layer -> how its attention is spread."""
        return {layer: spread_of(shares) for layer, shares in self.measured.shares.items()}


def draw(results: Sequence[TowerResult], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Writes both figures in each format.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    written = []
    with paper_style():
        for name, figure in (("attention_maps", maps_figure(results)), ("spread", spread_figure(results))):
            written += [save_figure(figure, folder / f"{name}.{form}") for form in formats]
    return written


# ----- Attention maps ----------------------------------------------------------


def maps_figure(results: Sequence[TowerResult]) -> Figure:
    """A row a picture: itself, then each tower's attention at each layer, as multiples of an even spread."""
    from matplotlib.figure import Figure

    columns = [(result, layer) for result in results for layer in _some(result.measured.layers)]
    pictures = results[0].measured.pictures
    maps = [[_map(result, layer, number) for result, layer in columns] for number in range(len(pictures))]
    brightest = max(2.0, float(np.percentile(np.concatenate([m.ravel() for line in maps for m in line]), _BRIGHTEST)))
    width = min(PAGE, _MAP_INCHES * (1 + len(columns)) + 0.6) if len(columns) < _MOST_MAPS else PAGE * 1.5
    side = (width - 0.6) / (1 + len(columns))
    figure = Figure(figsize=(width, side * len(pictures) + 0.35), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)  # type: ignore[union-attr,call-arg]
    grid = figure.subplots(len(pictures), 1 + len(columns), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, picture, row in zip(grid, pictures, maps, strict=True):
        line[0].imshow(picture)
        for axes, values in zip(line[1:], row, strict=True):
            shown = axes.imshow(values, cmap="magma", vmin=0, vmax=brightest, interpolation="nearest")
    for axes, (result, layer) in zip(grid[0, 1:], columns, strict=True):
        axes.set_title(f"{result.name}\nlayer {layer} of {result.num_layers}", fontsize=7)
    bar = figure.colorbar(shown, ax=grid[:, 1:], fraction=0.03, pad=0.01, extend="max")
    bar.set_label("attention, even spread = 1")
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def _some(layers: Sequence[int]) -> list[int]:
    """At most a few of the layers, evenly, the last among them."""
    if len(layers) <= _MOST_MAPS:
        return list(layers)
    return [layers[round(place)] for place in np.linspace(0, len(layers) - 1, _MOST_MAPS)]


def _map(result: TowerResult, layer: int, number: int) -> Any:
    """(h, w): a picture's attention over an even spread."""
    shares = result.measured.shares[layer][number]
    return (shares * len(shares)).reshape(result.grid)


# ----- Spread ------------------------------------------------------------------


def spread_figure(results: Sequence[TowerResult]) -> Figure:
    """Histogram, share held by the top k, and mass of what is kept; with several layers the spread over depth too."""
    from matplotlib.figure import Figure

    has_depth = any(len(result.measured.layers) > 1 for result in results)
    has_kept = any(result.measured.kept for result in results)
    count = 2 + has_kept + has_depth
    rows, columns = (1, count) if count < 4 else (2, 2)
    figure = Figure(figsize=(PAGE, _PANEL_HEIGHT * rows + 0.2), layout="constrained")
    panels = iter(figure.subplots(rows, columns, squeeze=False).flat)
    spreads = [result.spreads() for result in results]
    selected = [spread[result.measured.selected] for result, spread in zip(results, spreads, strict=True)]
    _histogram(next(panels), selected)
    _held_by_top(next(panels), selected)
    if has_kept:
        _kept(next(panels), results)
    if has_depth:
        _depth(next(panels), results, spreads)
    figure.legend(_lines(COLOURS[: len(results)]), [_legend(result) for result in results], loc="outside lower center",
                  ncols=min(len(results), 2))  # fmt: skip
    return figure


def _legend(result: TowerResult) -> str:
    kind = "CLS" if result.has_cls else "received"
    count = len(result.measured.shares[result.measured.selected])
    return f"{result.name}, layer {result.measured.selected} ({kind}; {counted(count, 'image')})"


def _histogram(axes: Axes, spreads: Sequence[Spread]) -> None:
    for spread, colour in zip(spreads, COLOURS, strict=False):
        axes.stairs(100 * np.array(spread.share_of_patches), spread.edges, color=colour)
        axes.stairs(100 * np.array(spread.share_of_attention), spread.edges, color=colour, linestyle="--")
    axes.axvline(1, color="0.7", linewidth=0.6, zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="attention of a patch, even spread = 1", ylabel="share in the bin, %", ylim=(0, None))
    style_legend(axes, ["patches", "attention"])


def _held_by_top(axes: Axes, spreads: Sequence[Spread]) -> None:
    for spread, colour in zip(spreads, COLOURS, strict=False):
        x = 100 * np.array(list(spread.top)) / spread.patches
        _band(axes, x, list(spread.top.values()), colour, "-")
    axes.plot([0, 100], [0, 100], color="0.7", linewidth=0.6, zorder=0)
    axes.set(xlabel="most attended patches, %", ylabel="attention that they hold, %", xlim=(0, 100), ylim=(0, 101))


def _kept(axes: Axes, results: Sequence[TowerResult]) -> None:
    """Methods are styles of lines, towers colours; the first method alone has its band, or nothing could be read."""
    methods: list[str] = []
    for result, colour in zip(results, COLOURS, strict=False):
        curves: dict[str, list[tuple[CompressionConfig, Distribution]]] = {}
        for budget, mass in result.measured.kept_mass().items():
            curves.setdefault(_method(budget), []).append((budget, mass))
        methods += [method for method in curves if method not in methods]
        for method, points in curves.items():
            x = [100 * budget.num_tokens / (result.grid[0] * result.grid[1]) for budget, _ in points]
            style = STYLES[methods.index(method) % len(STYLES)]
            values = [mass for _, mass in points]
            _band(axes, np.array(x), values, colour, style, marker="o", has_band=method == methods[0])
    axes.set(
        xlabel="tokens kept, % of the patches", ylabel="attention on patches kept, %", xlim=(0, None), ylim=(0, 101)
    )
    style_legend(axes, methods)


def _depth(axes: Axes, results: Sequence[TowerResult], spreads: Sequence[dict[int, Spread]]) -> None:
    for result, spread, colour in zip(results, spreads, COLOURS, strict=False):
        patches = result.grid[0] * result.grid[1]
        found = [each.effective_patches for each in spread.values()]
        scaled = [Distribution(*(value / patches for value in (each.mean, each.p5, each.p95))) for each in found]
        _band(axes, np.array([100 * layer / result.num_layers for layer in spread]), scaled, colour, "-", marker="o")
    axes.set(xlabel="depth of the layer, %", ylabel="effective patches, %", xlim=(0, 101), ylim=(0, 101))


def _band(
    axes: Axes,
    x: Any,
    values: Sequence[Distribution],
    colour: str,
    style: str,
    marker: str | None = None,
    has_band: bool = True,
) -> None:
    """Means, and from the 5th to the 95th percentile, in percent."""
    axes.plot(x, [100 * value.mean for value in values], style, color=colour, marker=marker)
    if not has_band:
        return
    low, high = ([100 * getattr(value, end) for value in values] for end in ("p5", "p95"))
    axes.fill_between(x, low, high, color=colour, alpha=_BAND, linewidth=0)


def _method(budget: CompressionConfig) -> str:
    options = ",".join(f"{name}={value}" for name, value in budget.options.items())
    return methods_of(budget) + (f",{options}" if options else "")


def _lines(colours: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=colour) for colour in colours]
