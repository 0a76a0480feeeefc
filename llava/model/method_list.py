"""The methods of compression there are, as a list for people: what `--list-methods` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llava.model.language_pruning import PRUNERS, Pruner
from llava.model.multimodal_compressor import COMPRESSORS, Compressor
from llava.model.multimodal_compressor.options import describe_options
from llava.model.multimodal_compressor.registry import TEXT_NEEDS


def method_list() -> str:
    """Every method: where it stands, what it reads, its options, where it comes from; plug-ins' too."""
    before = [line for compressor in COMPRESSORS for line in [*_of_compressor(compressor), ""]]
    inside = [line for pruner in PRUNERS for line in [*_of_pruner(pruner), ""]]
    return "\n".join([*before, *inside]).rstrip()


def _headline(name: str, function: Callable[..., Any]) -> str:
    said = (function.__doc__ or "").strip().partition("\n")[0].rstrip(".")
    return f"{name}: {said}" if said else name


def _of_pruner(pruner: Pruner) -> Iterator[str]:
    yield _headline(pruner.name, pruner.score)
    yield "    place: inside the language model; after a method before it, as visionzip:108+20|fastv:64, or alone"
    yield f"    reads: {pruner.needs}"
    yield from _origin(pruner, PRUNERS.plugin_name(pruner.name))


def _of_compressor(compressor: Compressor) -> Iterator[str]:
    yield _headline(compressor.name, compressor.function)
    yield f"    place: {', '.join(compressor.places)}"
    options = None if compressor.options is None else compressor.options()
    needs = compressor.needs_with(options)
    reads = [*sorted(needs), *(f"{name} (if at hand)" for name in sorted(compressor.wants))]
    if reads:
        yield f"    reads: {', '.join(reads)}"
    if not TEXT_NEEDS.isdisjoint(needs | compressor.wants):
        yield "    chooses by the question, anew in every turn of a conversation; not multi-turn safe"
    if compressor.across is not None:
        yield "    of a video: the frames share the total, K times their number"
    if compressor.can_restore(options):
        yield "    takes positions=restore (LLaVA-1.5 only; no serving engine knows it)"
    yield from _origin(compressor, COMPRESSORS.plugin_name(compressor.name))


def _origin(method: Compressor | Pruner, plugin: str | None) -> Iterator[str]:
    """Options, source and plug-in."""
    for line in describe_options(method.options):
        yield f"    option {line}"
    if method.source:
        yield f"    source: {method.source}"
    if plugin:
        yield f"    plug-in: {plugin}"
