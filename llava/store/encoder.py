"""From pixels to the rows that a store holds.

Shapes: T tiles of all images, K tokens a tile, C channels of the stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava.encoded.layout import Layout, Stage, StoredType
from llava.encoded.writer import EncodedRows
from llava.model.image_rules import ImageRules
from llava.model.multimodal_compressor.types import gather_rows
from llava.model.offloading import like_weights
from llava.model.vision_tokens import VisionTokens
from llava.store.refusals import check_storable


@dataclass(frozen=True)
class Encoder:
    """Makes rows of images.

    Attributes:
        model: `VisionSeam`.
        layout: Of the store.
    """

    model: Any
    layout: Layout

    @torch.no_grad()
    def __call__(self, pixels: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[EncodedRows]:
        """Encodes a batch.

        Args:
            pixels: Of each image, (3, H, W) or (tiles, 3, H, W), on any device.
            sizes: (w, h) of each, before any resizing.
        """
        tiles = [image if image.dim() == 4 else image.unsqueeze(0) for image in pixels]
        counts = [len(image) for image in tiles]
        rows, positions = self._encode(torch.cat(tiles), counts if self.layout.several_tiles else None, sizes)
        where = [None] * len(rows) if positions is None else positions
        seen = self._tiles(counts)
        return [EncodedRows(*each) for each in zip(sizes, seen, rows, where, strict=True)]

    def _tiles(self, counts: Sequence[int]) -> Sequence[int]:
        """Of each image, those that the model itself makes of a picture too."""
        return self.model.tile_counts(counts, len(counts)) or counts

    def _encode(
        self, pixels: Tensor, counts: list[int] | None, sizes: Sequence[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        """Rows of each image, and their positions if the store has them."""
        if self.layout.nested:
            tokens, positions = self._in_order_of_choice(pixels, counts, sizes)
        else:
            seen = self.model.encode(pixels, counts, sizes)
            if self.layout.stage == "projected":
                rows = self.model.project(seen, sizes)
                return rows, list(seen.positions) if self.layout.positions else None
            tokens, positions = seen.tokens, seen.positions
        each = self._tiles([1] * len(pixels) if counts is None else counts)
        rows = [image.flatten(0, 1) for image in tokens.split(each)]
        return rows, None if positions is None else [image.flatten() for image in positions.split(each)]

    def _in_order_of_choice(
        self, pixels: Tensor, counts: list[int] | None, sizes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """(T, K, C) and the positions (T, K): what the method chooses, the first choice first."""
        bound, features = self.model.selection(pixels, counts, sizes, None)
        assert self.layout.tokens is not None
        order, _ = bound.compressor.nested.rank(features, self.layout.tokens, bound.options)
        rows = gather_rows(features.patches, order)
        if self.layout.stage == "projected" and not bound.gives_projected:
            projector = self.model.multi_modal_projector
            rows = projector(like_weights(rows, projector).contiguous())
        return rows, order


def new_layout(model: Any, stage: Stage, stored: StoredType | None = None, *, nested: bool = False) -> Layout:
    """The layout of a new store for a model under its budget; a blank tile is encoded to find it out.

    Args:
        model: `VisionSeam`.
        stage: Where in the model the rows are taken.
        stored: The type on disk; None for that in which the model computes.
        nested: Whether rows stand in the order of choice.

    Raises:
        StoreError: The budget does not go with that.
    """
    check_storable(model, stage, nested=nested)
    weight = next(model.vision_tower.parameters())
    computed: Any = str(weight.dtype).removeprefix("torch.")
    several, side = ImageRules.from_config(model.config).has_several_tiles, model.picture.side
    blank = torch.zeros(1, 3, side, side, device=weight.device)
    with torch.no_grad():
        seen: VisionTokens = model.encode(blank, None, [(side, side)])
        rows = model.project(seen, [(side, side)])[0] if stage == "projected" else seen.tokens[0]
    is_even = seen.splits is None
    has_positions = nested or (seen.positions is not None and (stage == "tower" or (not several and is_even)))
    bound = model.bound_compressor
    number = bound.budget.num_tokens if nested and bound is not None else len(rows)
    return Layout(
        stage=stage,
        stored=stored or computed,
        computed=computed,
        channels=rows.shape[-1],
        tokens=None if stage == "projected" and (several or not is_even) else number,
        grid=model.tile_shape.grid,
        several_tiles=several,
        positions=has_positions,
        num_dominant=seen.num_dominant if has_positions and not nested else 0,
        nested=nested,
    )
