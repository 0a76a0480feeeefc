"""How many rows of an image each layer of the language model reads.

N rows of an image enter the first of L layers. A stage stands behind some of the layers and leaves fewer rows to the
rest. The budget of a method is the mean over all layers of the rows that they read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

_PUBLISHED_LAYERS = 32  # of the 7B model, for which the papers name layers
_HALVINGS = 40


@dataclass(frozen=True)
class Stage:
    """One pruning.

    Attributes:
        layers_run: Layers that have read all rows of before; the next one reads what is left.
        kept: Rows that stay as they are.
        merged: Rows that are made of dropped ones and put behind the kept.
    """

    layers_run: int
    kept: int
    merged: int = 0

    @property
    def rows(self) -> int:
        """What the next layer reads of the image."""
        return self.kept + self.merged


@dataclass(frozen=True)
class Schedule:
    """What the layers read of one image.

    Attributes:
        rows: N, what the first layer reads.
        num_layers: L.
        stages: In the order of the layers; none if nothing is pruned.
    """

    rows: int
    num_layers: int
    stages: tuple[Stage, ...]

    @property
    def rows_per_layer(self) -> list[int]:
        """Rows that each of the L layers reads, and so keeps in its cache."""
        starts = [0, *(stage.layers_run for stage in self.stages), self.num_layers]
        rows = [self.rows, *(stage.rows for stage in self.stages)]
        return [
            count for count, start, end in zip(rows, starts[:-1], starts[1:], strict=True) for _ in range(end - start)
        ]

    def stages_at(self, layers: Sequence[int]) -> tuple[Stage, ...]:
        """Stages behind all of these layers; those that the schedule does not have drop nothing.

        Args:
            layers: How many layers have run at each, those of the schedule among them.
        """
        own, rows = {stage.layers_run: stage for stage in self.stages}, self.rows_per_layer
        return tuple(own.get(place, Stage(place, rows[place])) for place in layers)

    @property
    def mean_rows(self) -> float:
        """The mean of `rows_per_layer`: what the budget of a method inside the language model means."""
        return sum(self.rows_per_layer) / self.num_layers


def stage_layers(layers: Sequence[int], num_layers: int, what: str) -> tuple[int, ...]:
    """Checks where stages stand.

    Args:
        layers: How many layers have run at each stage.
        num_layers: L.
        what: The option, for the message.

    Raises:
        ValueError: They do not rise, or lie outside of 1..L-1.
    """
    rising = all(a < b for a, b in pairwise(layers))
    if not layers or not rising or layers[0] < 1 or layers[-1] >= num_layers:
        shown = "/".join(map(str, layers))
        raise ValueError(
            f"{what}={shown}: numbers of layers that have run must rise and lie in 1..{num_layers - 1}, for the "
            f"language model has {num_layers}"
        )
    return tuple(layers)


def scaled_layers(layers: Sequence[float], num_layers: int) -> tuple[int, ...]:
    """Places given for 32 layers in a language model of L; places that fall together are one."""
    places = {min(max(1, round(place * num_layers / _PUBLISHED_LAYERS)), num_layers - 1) for place in layers}
    return tuple(sorted(places))


def unpruned(rows: int, num_layers: int, layers: Sequence[int]) -> Schedule:
    """The schedule of an image with no more rows than the budget: every layer reads them all."""
    return Schedule(rows, num_layers, tuple(Stage(place, rows) for place in layers))


def fit_last_stage(schedule: Schedule, mean: float, stage_of: Callable[[int, int], Stage]) -> Schedule:
    """The same schedule with the last stage changed so that the mean comes nearest: it takes all rounding.

    One row stays at least. Of two numbers that are equally near, the smaller is taken.

    Args:
        schedule: With at least one stage.
        mean: What the layers are to read on average.
        stage_of: The last stage, by the rows before it and the rows that it keeps.
    """
    *others, last = schedule.stages
    before = others[-1].rows if others else schedule.rows
    spent = sum(schedule.rows_per_layer[: last.layers_run])
    wanted = (mean * schedule.num_layers - spent) / (schedule.num_layers - last.layers_run)
    choices = (stage_of(before, kept) for kept in range(1, before + 1))
    nearest = min(choices, key=lambda stage: abs(stage.rows - wanted))
    return replace(schedule, stages=(*others, nearest))


def largest_below(make: Callable[[float], Schedule], mean: float) -> Schedule:
    """The schedule of a family that reads most without exceeding a mean, or its smallest.

    Args:
        make: A schedule for each number from 0 (fewest rows) to 1 (most); its mean never falls.
        mean: What the layers are to read on average.
    """
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if make(middle).mean_rows <= mean else (low, middle)
    return make(low)
