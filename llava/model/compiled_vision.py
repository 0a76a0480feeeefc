"""Tower, compressor and projector as one compiled graph with fixed shapes.

A graph is made for a number of tiles and a budget when they are first met. Numbers of tiles are padded up to a few
sizes, so that few graphs are made; tiles do not see each other, so the padding changes nothing.

Shapes: T tiles, K kept tokens a tile, D channels of the language model.
"""

from __future__ import annotations

import types
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import BoundCompressor
from llava.model.tile_facts import TileFacts, pad_facts

BUCKETS = (1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 48, 64)
"""Tiles that a graph takes: whatever a single image has, then steps that waste a third at most."""

Projected = tuple[Tensor, Tensor | None, int]
"""Features (T, K, D), and `positions` (T, K) and `num_dominant` as in `VisionTokens`."""

Graph = Callable[[Any, Tensor, BoundCompressor | None, TileFacts], Projected]


def bucket_for(num_tiles: int) -> int:
    """The smallest graph that takes so many tiles, or the largest there is."""
    return BUCKETS[min(bisect_left(BUCKETS, num_tiles), len(BUCKETS) - 1)]


class CompiledVision:
    """The graphs of one model.

    Attributes:
        graphs: What has been compiled, by number of tiles and budget.
    """

    def __init__(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compiles nothing yet.

        Args:
            backend: For `torch.compile`.
        """
        self.backend = backend
        self.graphs: dict[tuple[int, CompressionConfig | None], Graph] = {}

    def __call__(
        self, model: Any, pixel_values: Tensor, bound: BoundCompressor | None, facts: TileFacts | None = None
    ) -> Projected:
        """Encodes tiles.

        Args:
            model: The one model that this instance is for, a `VisionSeam`.
            pixel_values: (T, 3, height, width), on the model's device and in its dtype.
            bound: The compressor with its budget; None for all tokens.
            facts: Of the tiles, if the compressor needs any.
        """
        most = min(BUCKETS[-1], model.most_pictures or BUCKETS[-1])
        if facts:  # tiles of one image must stay together
            if len(pixel_values) > most:
                return _encode(model, pixel_values, bound, facts)
            return self._run(model, pixel_values, bound, facts)
        parts = [self._run(model, chunk, bound, {}) for chunk in pixel_values.split(most)]
        if len(parts) == 1:
            return parts[0]
        positions = [where for _, where, _ in parts if where is not None]
        return torch.cat([part[0] for part in parts]), torch.cat(positions) if positions else None, parts[0][2]

    def _run(self, model: Any, tiles: Tensor, bound: BoundCompressor | None, facts: TileFacts) -> Projected:
        own = model.picture.tiles  # that the model makes of each
        num_tiles, size = len(tiles) * own, bucket_for(len(tiles))
        padded = torch.cat([tiles, tiles.new_zeros(size - len(tiles), *tiles.shape[1:])])
        budget = None if bound is None else bound.budget
        graph = self.graphs.get((size, budget))
        if graph is None:
            graph = torch.compile(_own_code(_encode), fullgraph=True, dynamic=False, backend=self.backend)
            self.graphs[size, budget] = graph
        embeds, positions, num_dominant = graph(model, padded, bound, pad_facts(facts, size * own))
        return embeds[:num_tiles], None if positions is None else positions[:num_tiles], num_dominant


def check_compilable(model: Any) -> None:
    """Refuses weights that are brought in from elsewhere when a module is called, which is no part of a graph.

    Raises:
        ValueError: The tower or the projector is offloaded or spread over devices.
    """
    parts = (*model.vision_parts.values(), model.multi_modal_projector)
    devices = {weight.device for part in parts for weight in part.parameters()}
    if len(devices) > 1 or torch.device("meta") in devices:
        places = ", ".join(sorted(map(str, devices)))
        raise ValueError(
            f"compile=True needs the vision tower and the projector whole on one device, they are on {places} (meta: "
            'offloaded); load with device="cuda:0" or without compile'
        )


def _encode(model: Any, pixel_values: Tensor, bound: BoundCompressor | None, facts: TileFacts) -> Projected:
    """What is compiled; the same calls as the eager way."""
    return model.embed_tiles(pixel_values, bound, facts)  # type: ignore[no-any-return]


def _own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a function; torch keeps graphs by the function's code and refuses more than a few of one."""
    return types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
