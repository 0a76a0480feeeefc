"""The functions that a compressor is registered with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.types import CompressedTokens, TileShape, VisionFeatures

CompressFunction: TypeAlias = Callable[..., CompressedTokens]
CheckFunction: TypeAlias = Callable[[CompressionConfig, TileShape], None]
GridFunction: TypeAlias = Callable[[CompressionConfig, TileShape], tuple[int, int]]
WordsFunction: TypeAlias = Callable[[str], list[str]]
OfOptions: TypeAlias = Callable[[Any], bool]
RankFunction: TypeAlias = Callable[[VisionFeatures, int, Any], tuple[Tensor, Tensor]]
KeepFunction: TypeAlias = Callable[[VisionFeatures, Tensor, Any], CompressedTokens]
ClipFunction: TypeAlias = Callable[[VisionFeatures, CompressionConfig, Any], Tensor]
"""Maps the features of the T frames of one video, the budget of a frame and the options to the T * K patches to keep:
int64, ascending, frame after frame, patch p of frame t being t * P + p."""


@dataclass(frozen=True)
class Nested:
    """How a method chooses, for numbers of tokens that differ from tile to tile.

    Attributes:
        rank: Maps the features of B tiles, K and the options to the patches in the order of choice, (B, K), int64, and
            to what each covers more, (B, K), as a share of the tile.
        keep: Maps features, patches (B, k), ascending, and the options to what the method keeps at k; the first k that
            `rank` gives for any K are then its choice. None: the method is called at each k.
    """

    rank: RankFunction
    keep: KeepFunction | None = None
