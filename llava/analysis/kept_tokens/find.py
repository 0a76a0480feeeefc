"""Which patches of an image a compressor keeps, and which it merges into which token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llava.images.source import ImageSource
from llava.images.tile_pixels import shown_pixels
from llava.inference import Inference
from llava.model.configuration import CompressionLike
from llava.model.multimodal_compressor.adaptive import choose
from llava.model.multimodal_compressor.following import following
from llava.model.stages import before_language_model


@dataclass(frozen=True)
class KeptTokens:
    """One tile as the vision tower takes it, and what is left of it.

    Attributes:
        picture: (H, W, 3), between 0 and 1: the preprocessed tile.
        grid: (h, w), the patches' rows and columns.
        dominant: Indices of the patches kept as they are, raster order; CLS is not among them.
        contextual: Index of the patch at which a merged token stands -> tokens that it holds, itself included.
        keeps_cls: Whether the CLS token is kept too.
        holders: For each patch the patch at which the token stands that holds it, -1 where none does; empty where that
            is not known.
    """

    picture: np.ndarray
    grid: tuple[int, int]
    dominant: tuple[int, ...]
    contextual: dict[int, int]
    keeps_cls: bool
    holders: tuple[int, ...] = ()

    def caption(self) -> str:
        """What is kept, in words."""
        total = self.keeps_cls + len(self.dominant) + len(self.contextual)
        parts = [f"{len(self.dominant)} patches"] + [f"{len(self.contextual)} merged"] * bool(self.contextual)
        return f"{total} tokens: {' + '.join(['CLS'] * self.keeps_cls + parts)}"


def find_kept_tokens(
    inference: Inference, image: ImageSource, compression: CompressionLike, question: str = ""
) -> KeptTokens:
    """Compresses an image and reports what was kept of its first tile.

    Args:
        inference: The model; its own compression is put back afterwards.
        image: The image.
        compression: The budget.
        question: What is asked, for methods that choose by it.

    Raises:
        ValueError: `compression` is none, works inside the language model only, or chooses by a question that is not
            given.
        UnreadableImageError: The image cannot be read.
    """
    model = inference.model
    before = model.compression
    opened = inference.open([image])
    pixels = inference.preprocess(opened)
    try:
        model.set_compression(compression)
        if model.compression is None:
            raise ValueError("without compression every patch is kept: name a budget")
        if before_language_model(model.compression) is None:
            raise ValueError(
                f"{compression} drops tokens inside the language model; what is shown here is kept before it: name a "
                "method that works there, as in visionzip:54+10"
            )
        bound, features = model.selection(pixels, [opened[0].size], [question])
        kept = choose(bound if bound.is_uneven else following(bound), features)
    finally:
        model.set_compression(before)
    tile = model.model.seen_tiles(pixels[0] if pixels[0].ndim == 4 else pixels[:1])[0]
    side = round(model.num_patches**0.5)
    positions, sizes = kept.positions[0].tolist(), kept.sizes[0].tolist()
    # Besides VisionZip's contextual tokens, whatever took others in.
    merged = {
        place: size
        for number, (place, size) in enumerate(zip(positions, sizes, strict=True))
        if place >= 0 and (number >= kept.num_dominant or size > 1)
    }
    return KeptTokens(
        picture=shown_pixels(tile, inference.image_processor),
        grid=(side, side),
        dominant=tuple(place for place in positions if place >= 0 and place not in merged),
        contextual=merged,
        keeps_cls=(-1, 1) in zip(positions[: kept.num_dominant], sizes, strict=False),  # an empty token has the size 0
        holders=() if kept.assignment is None else tuple(_places(positions, kept.assignment[0].tolist())),
    )


def _places(positions: list[int], rows: list[int]) -> list[int]:
    """For each patch the place of its token, of the tokens' places and the row of each patch's token."""
    return [positions[row] if row >= 0 else -1 for row in rows]
