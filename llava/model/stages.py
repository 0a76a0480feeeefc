"""Which part of a budget acts before the language model, and which inside it.

`visionzip:108+20|fastv:64` has both, `visionzip:54+10` the first only, `fastv:64` the second only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llava.kinds import Registry
from llava.model.configuration import CompressionConfig
from llava.model.language_pruning import PRUNERS, Pruner
from llava.model.multimodal_compressor import COMPRESSORS, compressor_of


def before_language_model(budget: CompressionConfig | None) -> CompressionConfig | None:
    """The part that compresses the tiles of an image; None where every visual token reaches the language model.

    A method that is not known counts as one: rows of results may name what is not loaded here.
    """
    if budget is None or _is_inside(budget):
        return None
    return budget if budget.then is None else replace(budget, then=None)


def inside_language_model(budget: CompressionConfig | None) -> CompressionConfig | None:
    """The part that drops rows of images between layers of the language model; None where none does."""
    if budget is None:
        return None
    return budget if _is_inside(budget) else budget.then


def methods_of(budget: CompressionConfig | None) -> str:
    """Names of the methods of a budget, as `visionzip|fastv`; `none` without one."""
    if budget is None:
        return "none"
    return budget.method if budget.then is None else f"{budget.method}|{budget.then.method}"


def pruner_of(inside: CompressionConfig) -> Pruner:
    """The pruner that the part inside the language model asks for.

    Raises:
        ValueError: There is none of that name; the message names the plug-in that it came from, where that is known,
            or says that the method stands before the language model.
    """
    found = PRUNERS.find(inside.method)
    if found is not None:
        return found
    if inside.plugin:
        raise ValueError(
            f"unknown method {inside.method!r} inside the language model: it comes from the plug-in {inside.plugin}; "
            "give it with --plugin, or in LLAVA_PLUGINS"
        )
    if COMPRESSORS.find(inside.method) is not None:
        raise ValueError(
            f"compression {inside}: {inside.method} stands before the language model, and what follows | is inside "
            f"it; there are: {', '.join(PRUNERS.names())}"
        )
    return PRUNERS.get(inside.method)


def check_methods(budget: CompressionConfig) -> None:
    """Refuses a budget of a method that there is not.

    Raises:
        ValueError: As `compressor_of` and `pruner_of` raise; of a name that may be meant for either place, the message
            lists the methods at both.
    """
    before, inside = before_language_model(budget), inside_language_model(budget)
    if before is not None:
        try:
            compressor_of(before)
        except ValueError as error:
            if budget.then is not None or budget.plugin:
                raise
            raise ValueError(f"{error}. Inside the language model there are: {', '.join(PRUNERS.names())}") from None
    if inside is not None:
        pruner_of(inside)


def with_plugin(budget: CompressionConfig) -> CompressionConfig:
    """The same budget, with the plug-ins that its methods come from noted; that is what a checkpoint keeps."""
    then = None if budget.then is None else with_plugin(budget.then)
    return replace(budget, plugin=method_plugin(budget) or "", then=then)


def method_plugin(budget: CompressionConfig) -> str | None:
    """The plug-in that the first method of a budget comes from; None for this package's own."""
    registry: Registry[Any] = PRUNERS if _is_inside(budget) else COMPRESSORS
    return registry.plugin_name(budget.method)


def _is_inside(budget: CompressionConfig) -> bool:
    """Whether the first method of a budget is a pruner; a compressor of the same name comes first."""
    return COMPRESSORS.find(budget.method) is None and PRUNERS.find(budget.method) is not None
