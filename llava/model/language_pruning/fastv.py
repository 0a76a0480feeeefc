"""FastV (Chen et al., ECCV 2024, arXiv 2403.06764): after a few layers, what the last token attends to stays.

The form with a cache: pruned once, when the prompt is read. Positions stay what they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from llava.model.language_pruning.registry import register_pruner
from llava.model.language_pruning.schedule import Schedule, Stage, fit_last_stage, stage_layers, unpruned
from llava.model.language_pruning.stage_view import StageView

# Layers that run first, and the share that is dropped: the paper's, of the code's demo, of its file for lmms-eval.
_PUBLISHED = {"paper": (2, 0.5), "demo": (3, 0.75), "lmms_eval": (3, 0.5)}


@dataclass(frozen=True)
class FastVOptions:
    """Options of FastV.

    Attributes:
        layer: How many layers read all rows; the published K.
        schedule: `mean` keeps as many rows as give the budget; else a published pair of layer and ratio.
        ratio: The share that is dropped, the published R, in place of what the budget would give.
    """

    layer: int = 2
    schedule: Literal["mean", "paper", "demo", "lmms_eval"] = "mean"
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.schedule != "mean" and (self.ratio is not None or self.layer != FastVOptions.layer):
            layer, ratio = _PUBLISHED[self.schedule]
            raise ValueError(f"schedule={self.schedule} is layer={layer},ratio={ratio}; leave layer and ratio out")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise ValueError(f"ratio={self.ratio} is outside 0..1, 1 excluded")


def plan(rows: int, num_layers: int, mean: int, options: FastVOptions) -> Schedule:
    """One stage; see `Pruner.plan`."""
    layer, ratio = _PUBLISHED.get(options.schedule, (options.layer, options.ratio))
    layers = stage_layers([layer], num_layers, "layer")
    if ratio is not None:
        return Schedule(rows, num_layers, (Stage(layer, round(rows * (1 - ratio))),))
    everything = unpruned(rows, num_layers, layers)
    if rows <= mean:
        return everything
    return fit_last_stage(everything, mean, lambda before, kept: Stage(layer, kept))


@register_pruner(
    "fastv", plan=plan, options=FastVOptions, source="arXiv 2403.06764; pkunlp-icler/FastV, the form with a cache"
)
def score(view: StageView, options: FastVOptions) -> Tensor:
    """Keeps what the last token attends to in the layer that has just run, in the mean over heads."""
    return view.attention_of_last(1).mean(dim=1).squeeze(1)
