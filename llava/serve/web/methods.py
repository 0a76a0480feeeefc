"""What a visitor may choose for the model that is shown: methods, and the numbers of tokens that its tower allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llava.model.any_budget import bind, reads_questions
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import COMPRESSORS

ALL = "all tokens"
HAND = "picked by hand"
_MERGES_INTO_OWN_TOKENS = CompressionConfig.method  # of other methods the two numbers of a budget mean their sum
_FIRST_SHARE = 9  # a ninth of the patches to begin with, as 64 of 576 are


@dataclass(frozen=True)
class Range:
    """What the sliders of a pane may be moved to.

    Attributes:
        most: Tokens a tile, at the most.
        first: Tokens a tile, to begin with.
        most_merged: How many of them may be merged ones; 0 where the method does not tell them apart.
        first_merged: The same, to begin with.
    """

    most: int
    first: int
    most_merged: int
    first_merged: int


def methods_of(model: Any) -> list[str]:
    """What a pane offers: all tokens, VisionZip, every other method that stands behind the tower, and picks by hand."""
    shape = model.model.tile_shape
    found = [name for name in COMPRESSORS.names() if _fits(model, name)]
    found.sort(key=lambda name: name != CompressionConfig.method)
    return [ALL, *found, *([HAND] if "tower" in shape.places else [])]


def range_of(model: Any, method: str, tokens: int | None = None) -> Range:
    """The sliders of a method.

    Args:
        model: The model.
        method: Of `methods_of`.
        tokens: What the first slider stands at; None to begin with.
    """
    shape = model.model.tile_shape
    compressor = COMPRESSORS.find(method)
    has_cls = compressor is not None and compressor.keeps_cls and shape.keep_cls and shape.cls_counts
    most = shape.num_patches + int(has_cls)
    first = max(1, min(most, round(shape.num_patches / _FIRST_SHARE) if tokens is None else tokens))
    merges = method == _MERGES_INTO_OWN_TOKENS
    split = CompressionConfig.from_total(first)
    return Range(most, first, max(first - 1, 0) if merges else 0, split.contextual if merges else 0)


def reads_the_question(model: Any, method: str) -> bool:
    """Whether a method keeps other patches for another question."""
    compressor = COMPRESSORS.find(method)
    if compressor is None:
        return False
    return reads_questions(model, compressor.bind(CompressionConfig(method, 1), model.model.tile_shape))


def _fits(model: Any, name: str) -> bool:
    """Whether a method can be run on what the tower gave; which budgets it takes is another question."""
    side = model.model.tile_shape.grid[0]
    for tokens in (side, (side // 2) ** 2, side * side):  # a pooled grid is a square
        try:
            bind(model, CompressionConfig(name, max(tokens, 1)))
        except ValueError:
            continue
        return True
    return False
