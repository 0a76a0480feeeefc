"""What a prompt costs against its visual tokens, as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava.analysis.cost.prompt_cost import PromptCost
from llava.analysis.cost.report import GIB, TERA, ModelCost
from llava.analysis.paper_figure import COLOURS, PAGE, STYLES, paper_style, save_figure, style_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT = 2.3  # inches

Figures = Callable[[PromptCost], float]


def draw_costs(models: Sequence[ModelCost], curves: Sequence[Sequence[PromptCost]], file: Path) -> Path:
    """Draws operations, cache and least time against visual tokens: a curve a model, with points at its budgets.

    Args:
        models: What is told, each with as many GPUs.
        curves: Of each model, costs at rising numbers of tokens.
        file: What is written.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: The file's ending is no format.
    """
    with paper_style():
        return save_figure(costs_figure(models, curves), file)


def costs_figure(models: Sequence[ModelCost], curves: Sequence[Sequence[PromptCost]]) -> Figure:
    """The figure; see `draw_costs`."""
    from matplotlib.figure import Figure

    devices = [floor.device for floor in models[0].costs[0].floors]
    figure = Figure(figsize=(PAGE, _HEIGHT + 0.16 * max(2, len(models))), layout="constrained")
    panels = figure.subplots(1, 3 if devices else 2)
    _panel(panels[0], models, curves, [("counted", lambda cost: cost.prefill_flops / TERA)], "prefill, TFLOP")
    _paper(panels[0], curves)
    _panel(panels[1], models, curves, [("cache", lambda cost: cost.kv_bytes / GIB)], "keys and values, GiB")
    if devices:
        times: list[tuple[str, Figures]] = [
            (device, lambda cost, number=number: cost.floors[number].first_token_ms)  # type: ignore[misc]
            for number, device in enumerate(devices)
        ]
        _panel(panels[2], models, curves, times, "least ms to the first token")
        style_legend(panels[2], devices)
    style_legend(panels[0], ["counted", "the paper's formula"])
    handles = [panels[0].lines[2 * number] for number in range(len(models))]
    names = [model.name for model in models]
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(models), 3))
    return figure


def _panel(
    axes: Axes,
    models: Sequence[ModelCost],
    curves: Sequence[Sequence[PromptCost]],
    kinds: Sequence[tuple[str, Figures]],
    label: str,
) -> None:
    """A curve a model and kind, and points at the model's budgets."""
    for number, (model, curve) in enumerate(zip(models, curves, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        for style, (_, figures) in zip(STYLES * len(kinds), kinds, strict=False):
            axes.plot([cost.visual_tokens for cost in curve], [figures(cost) for cost in curve], style, color=colour)
            points = [(cost.visual_tokens, figures(cost)) for cost in model.costs]
            axes.plot(*zip(*points, strict=True), "o", color=colour)
    axes.set(xlabel="visual tokens", ylabel=label, xlim=(0, None), ylim=(0, None))


def _paper(axes: Axes, curves: Sequence[Sequence[PromptCost]]) -> None:
    for number, curve in enumerate(curves):
        x, y = [cost.visual_tokens for cost in curve], [cost.paper_flops / TERA for cost in curve]
        axes.plot(x, y, STYLES[1], color=COLOURS[number % len(COLOURS)])
