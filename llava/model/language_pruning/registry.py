"""The registry of pruners: methods that drop rows of images between two layers of the language model.

Shapes: B prompts, L rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias

from torch import Tensor

from llava.kinds import Registry
from llava.model.configuration import CompressionConfig
from llava.model.language_pruning.prompt_rows import MergedRows
from llava.model.language_pruning.schedule import Schedule
from llava.model.language_pruning.stage_view import StageView
from llava.model.multimodal_compressor.options import check_options_class, typed_options

ScoreFunction: TypeAlias = Callable[[StageView, Any], Tensor]
PlanFunction: TypeAlias = Callable[[int, int, int, Any], Schedule]
MergeFunction: TypeAlias = Callable[[StageView, Tensor, Any], MergedRows]

PRUNERS: Registry[Pruner] = Registry(
    "method inside the language model",
    builtin=tuple(f"llava.model.language_pruning.{name}" for name in ("fastv", "pyramiddrop", "sparsevlm")),
)


@dataclass(frozen=True)
class Pruner:
    """A registered pruner.

    Attributes:
        name: What `CompressionConfig.method` calls it.
        score: Says at a stage how much each row is worth, (B, L); the best of each image stay.
        plan: The schedule for N rows, L layers, the mean that the budget says, and the options. The mean is met as
            nearly as rounding allows, or passed over where the options say the numbers themselves. Images of a batch
            may have stages behind different layers.
        options: A frozen dataclass of its options; its `__post_init__` refuses what is out of range.
        renumbers: Whether what is left is numbered anew from 0, so that each layer goes on at its own length.
        merge: Makes rows of dropped ones, where a stage of the schedule says so.
        source: Paper and public code.
    """

    name: str
    score: ScoreFunction
    plan: PlanFunction
    options: type[Any]
    renumbers: Callable[[Any], bool]
    merge: MergeFunction | None = None
    source: str = ""

    needs: ClassVar[str] = "the question; not multi-turn safe"

    def options_of(self, budget: CompressionConfig) -> Any:
        """The options that a budget sets, typed.

        Raises:
            ValueError: An option is unknown, of another type, or out of range.
        """
        return typed_options(self.name, self.options, budget)

    def check_form(self, budget: CompressionConfig) -> None:
        """Refuses what no language model could have.

        Raises:
            ValueError: The budget has a contextual part, a merge rule or a further stage, or a wrong option.
        """
        shared = ("merge", "tiles", "positions", "adaptive")
        if budget.contextual or any(getattr(budget, name) != getattr(CompressionConfig, name) for name in shared):
            raise ValueError(
                f"compression {budget}: {self.name} takes one number, the mean of the image rows that the layers of "
                "the language model read, and no merge=, tiles=, positions= or adaptive="
            )
        if budget.then is not None:
            raise ValueError(f"compression {budget}: {self.name} is inside the language model, and nothing follows it")
        self.options_of(budget)

    def check(self, budget: CompressionConfig, rows: int, num_layers: int) -> None:
        """Refuses a budget that the layers cannot have.

        Args:
            budget: The rows of an image that the layers are to read on average.
            rows: Of the image that has the most.
            num_layers: Of the language model.

        Raises:
            ValueError: It is malformed, an option does not fit the layers, or no schedule has this mean; the message
                gives the range.
        """
        self.check_form(budget)
        bound = self.bind(budget, num_layers)
        try:
            fewest = replace(bound, mean=1).schedule(rows)
            most = replace(bound, mean=rows).schedule(rows)
        except ValueError as error:
            raise ValueError(f"compression {budget}: {error}") from error
        is_fixed = fewest == most
        least = math.floor(fewest.mean_rows + 0.5) if is_fixed else math.ceil(fewest.mean_rows)
        if least <= bound.mean <= (least if is_fixed else rows):
            return
        places = ", ".join(str(stage.layers_run) for stage in fewest.stages)
        image = f"an image of {rows} rows, pruned after {places} of {num_layers} layers"
        if is_fixed:
            raise ValueError(
                f"compression {budget}: the number is the mean of the rows that the layers read, and with these "
                f"options that is {least} for {image}; write {self.name}:{least}"
            )
        less = "; to read less, prune after fewer layers" if bound.mean < least else ""
        raise ValueError(
            f"compression {budget}: the mean of the rows that the layers read is in {least}..{rows} for {image}; got "
            f"{bound.mean}{less}"
        )

    def bind(self, budget: CompressionConfig, num_layers: int) -> BoundPruner:
        """The pruner with its budget and typed options, for a language model of so many layers."""
        return BoundPruner(self, budget.num_tokens, budget.seed, self.options_of(budget), num_layers)


@dataclass(frozen=True)
class BoundPruner:
    """A pruner that knows what to keep.

    Attributes:
        pruner: The method.
        mean: Rows of an image that the layers read on average.
        seed: For methods that draw at random.
        options: Typed.
        num_layers: Of the language model.
    """

    pruner: Pruner
    mean: int
    seed: int
    options: Any
    num_layers: int

    @property
    def renumbers(self) -> bool:
        """See `Pruner.renumbers`."""
        return self.pruner.renumbers(self.options)

    def schedule(self, rows: int) -> Schedule:
        """What the layers read of an image of so many rows.

        Raises:
            ValueError: The options do not fit the layers.
        """
        return _schedule(self, rows)


@lru_cache(maxsize=4096)
def _schedule(bound: BoundPruner, rows: int) -> Schedule:
    return bound.pruner.plan(rows, bound.num_layers, bound.mean, bound.options)


def register_pruner(
    name: str,
    *,
    plan: PlanFunction,
    options: type[Any],
    renumbers: Callable[[Any], bool] = lambda options: False,
    merge: MergeFunction | None = None,
    source: str = "",
) -> Callable[[ScoreFunction], ScoreFunction]:
    """Decorator that makes a function that scores rows available as `compression="name:K"`.

    Args:
        name: Must be free.
        plan: See `Pruner`.
        options: A frozen dataclass.
        renumbers: See `Pruner`; by default positions stay what they were.
        merge: See `Pruner`.
        source: Paper and public code.

    Raises:
        ValueError: The name is taken, or `options` is no dataclass or has a key that all methods share.
    """
    check_options_class(name, options)

    def register(function: ScoreFunction) -> ScoreFunction:
        PRUNERS.register(name, Pruner(name, function, plan, options, renumbers, merge, source), depth=2)
        return function

    return register
