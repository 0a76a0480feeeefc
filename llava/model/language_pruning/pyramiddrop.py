"""PyramidDrop (Xing et al., CVPR 2025, arXiv 2410.17247): an image loses rows in stages, deeper layers read few.

At a stage the last token of the prompt asks the layer that comes next. What is left is numbered anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
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
_LEAST_SHARE, _HALVINGS = 0.25, 3


@dataclass(frozen=True)
class PyramidDropOptions:
    """Options of PyramidDrop.

    Attributes:
        layers: How many layers have run at each stage; by default a quarter, half and three quarters of them, and
            half as many, up to three times, where a stage would leave less than a quarter of what it is given.
        schedule: `mean` leaves the same share at each stage, so that the budget comes out; `published` is
            layers=8/16/24,ratios=0.5/0.25/0.125.
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
    if ratios:
        layers = stage_layers(places, num_layers, "layers")
        shares = zip(layers, ratios, strict=True)
        return Schedule(rows, num_layers, tuple(Stage(place, int(rows * ratio)) for place, ratio in shares))
    earlier = [scaled_layers([place / 2**number for place in _LAYERS], num_layers) for number in range(_HALVINGS + 1)]
    for choice in [places] if places else earlier:
        layers = stage_layers(choice, num_layers, "layers")
        if rows <= mean:
            return unpruned(rows, num_layers, layers)
        found = largest_below(partial(_falling, rows, num_layers, layers), mean)
        if found.mean_rows <= mean and found.stages[0].kept >= int(rows * _LEAST_SHARE):
            break
    return fit_last_stage(found, mean, lambda before, kept: Stage(layers[-1], kept))


def _falling(rows: int, num_layers: int, layers: Sequence[int], factor: float) -> Schedule:
    """Each stage leaves the same share of what it is given, one row at least."""
    left = [max(1, int(rows * factor**number)) for number in range(1, len(layers) + 1)]
    return Schedule(rows, num_layers, tuple(map(Stage, layers, left)))


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
