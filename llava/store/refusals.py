"""Which budgets a store can hold images of."""

from __future__ import annotations

from typing import Any

from llava.encoded.errors import StoreError
from llava.encoded.layout import Stage
from llava.model.image_rules import ImageRules
from llava.model.multimodal_compressor import BoundCompressor
from llava.model.multimodal_compressor.registry import COMPRESSORS, TEXT_NEEDS, Compressor


def check_storable(model: Any, stage: Stage, *, nested: bool = False) -> None:
    """Refuses what cannot be stored of a model's images under its budget.

    Args:
        model: `VisionSeam`, its compression set.
        stage: Where in the model the rows are taken.
        nested: Whether one store is to serve all smaller budgets.

    Raises:
        StoreError: The method is named, and why not.
    """
    bound: BoundCompressor | None = model.bound_compressor
    if bound is not None:
        _check_method(model, bound, stage)
    if nested:
        _check_nested(model, bound, stage)


def _check_method(model: Any, bound: BoundCompressor, stage: Stage) -> None:
    name, budget = bound.compressor.name, bound.budget
    if model.reads_questions:
        raise StoreError(
            f"compression {budget}: {name} chooses by the question, so what it keeps of an image cannot be stored; say "
            "text=false if it has that option, or take another method"
        )
    if budget.restores:
        raise StoreError(f"compression {budget}: with positions=restore rows carry where they stand; a store does not")
    if stage == "projected":
        return
    if bound.is_late:
        reads = TEXT_NEEDS & (bound.needs | bound.compressor.wants)
        why = "may read the question, for which" if reads else "chooses among the projector's rows, and"
        raise StoreError(f"compression {budget}: {name} {why} the stage tower ends too early; take --stage projected")
    if budget.tiles != "equal" or bound.is_uneven:
        raise StoreError(
            f"compression {budget}: its tiles differ in their numbers of tokens; take --stage projected, or leave out "
            "tiles= and adaptive="
        )


def _check_nested(model: Any, bound: BoundCompressor | None, stage: Stage) -> None:
    able = ", ".join(each.name for each in COMPRESSORS if each.nested is not None and each.nested.keep is not None)
    if bound is None:
        raise StoreError(f"--nested orders what a method chooses, and there is none; take one of {able}")
    method, budget = bound.compressor, bound.budget
    if method.nested is None or method.nested.keep is None:
        raise StoreError(f"--nested: {method.name} has no order of selection that holds at every K; {able} have one")
    if not _only_chooses(method, bound.options):
        raise StoreError(f"--nested: {budget} merges, so tokens change with K; give options by which it only chooses")
    if budget.tiles != "equal" or bound.is_uneven:
        raise StoreError(f"--nested: {budget} gives tiles different numbers; leave out tiles= and adaptive=")
    if stage == "projected" and ImageRules.from_config(model.config).has_several_tiles:
        raise StoreError("--nested: images of several tiles are laid out by what is kept of each; take --stage tower")


def _only_chooses(method: Compressor, options: Any) -> bool:
    return method.can_restore(options)  # said of methods whose tokens are patches as they are
