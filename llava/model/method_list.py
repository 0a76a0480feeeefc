"""The methods of compression there are, as a list for people: what `--list-methods` prints."""

from __future__ import annotations

from collections.abc import Iterator

from llava.model.multimodal_compressor import COMPRESSORS, Compressor
from llava.model.multimodal_compressor.options import describe_options
from llava.model.multimodal_compressor.registry import TEXT_NEEDS


def method_list() -> str:
    """Every method: where it stands, what it reads, its options, where it comes from; plug-ins' too."""
    return "\n".join(line for compressor in COMPRESSORS for line in [*_of_compressor(compressor), ""]).rstrip()


def _of_compressor(compressor: Compressor) -> Iterator[str]:
    function = compressor.function
    said = (function.__doc__ or "").strip().partition("\n")[0].rstrip(".")
    yield f"{compressor.name}: {said}" if said else compressor.name
    yield f"    place: {', '.join(compressor.places)}"
    reads = [*sorted(compressor.needs), *(f"{name} (if at hand)" for name in sorted(compressor.wants))]
    if reads:
        yield f"    reads: {', '.join(reads)}"
    if not TEXT_NEEDS.isdisjoint(compressor.needs | compressor.wants):
        yield "    chooses by the question: once for each, so a conversation is computed anew in every turn"
    for line in describe_options(compressor.options):
        yield f"    option {line}"
    if compressor.source:
        yield f"    source: {compressor.source}"
    plugin = COMPRESSORS.plugin_name(compressor.name)
    if plugin:
        yield f"    plug-in: {plugin}"
