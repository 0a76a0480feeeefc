"""PyramidDrop (Xing et al., CVPR 2025, arXiv 2410.17247): an image loses rows in stages, deeper layers read few.

At a stage the last token of the prompt asks the layer that comes next. What is left is numbered anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from llava.model.language_pruning.registry import register_pruner
from llava.model.language_pruning.schedule import (
    Schedule,
    Stage,
    fit_last_stage,
    largest_below,
    scaled_layers,
    stage_layers,
    unpruned,
)
from llava.model.language_pruning.stage_view import StageView

_LAYERS, _RATIOS = (8, 16, 24), (0.5, 0.25, 0.125)


@dataclass(frozen=True)
class PyramidDropOptions:
    """Options of PyramidDrop.

    Attributes:
        layers: How many layers have run at each stage; by default a quarter, half and three quarters of them.
        schedule: `mean` halves, or divides by another number, at each stage, so that the budget comes out;
            `published` is layers=8/16/24,ratios=0.5/0.25/0.125.
        ratios: The share of an image that each stage leaves, in place of what the budget would give; with `layers`.
    """

    layers: tuple[int, ...] = ()
    schedule: Literal["mean", "published"] = "mean"
    ratios: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.schedule != "mean" and (self.layers or self.ratios):
            raise ValueError("schedule=published has its own layers and ratios; leave layers and ratios out")
        if self.ratios and len(self.ratios) != len(self.layers):
            raise ValueError(f"ratios has {len(self.ratios)} numbers, and layers has {len(self.layers)}")
        falling = all(a >= b for a, b in pairwise((1.0, *self.ratios)))
        if not falling or any(ratio < 0 for ratio in self.ratios):
            raise ValueError(f"ratios={'/'.join(map(str, self.ratios))} must fall and lie in 0..1")


def plan(rows: int, num_layers: int, mean: int, options: PyramidDropOptions) -> Schedule:
    """A stage a layer; see `Pruner.plan`."""
    is_published = options.schedule == "published"
    places, ratios = (_LAYERS, _RATIOS) if is_published else (options.layers, options.ratios)
    layers = stage_layers(places or scaled_layers(_LAYERS, num_layers), num_layers, "layers")
    if ratios:
        stages = tuple(Stage(place, int(rows * ratio)) for place, ratio in zip(layers, ratios, strict=True))
        return Schedule(rows, num_layers, stages)
    if rows <= mean:
        return unpruned(rows, num_layers, layers)

    def falling(factor: float) -> Schedule:
        left = [max(1, int(rows * factor**number)) for number in range(1, len(layers) + 1)]
        return Schedule(rows, num_layers, tuple(map(Stage, layers, left)))

    return fit_last_stage(largest_below(falling, mean), mean, lambda before, kept: Stage(layers[-1], kept))


@register_pruner(
    "pyramiddrop",
    plan=plan,
    options=PyramidDropOptions,
    renumbers=lambda options: True,
    source="arXiv 2410.17247; Cooperx521/PyramidDrop",
)
def score(view: StageView, options: PyramidDropOptions) -> Tensor:
    """Keeps, in stages, what the last token attends to in the layer that comes next, in the mean over heads."""
    return view.attention_of_last_in_next(1).mean(dim=1).squeeze(1)
