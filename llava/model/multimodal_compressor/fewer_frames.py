"""A baseline for videos: fewer frames with more tokens each, evenly spaced; the other frames are dropped.

Shapes: T frames of one video, P patches a frame, K tokens of a frame's budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.registry import Need, register_compressor
from llava.model.multimodal_compressor.types import CompressedTokens, TileShape, VisionFeatures, keep_patches


@dataclass(frozen=True)
class FewerFramesOptions:
    """Options of fewer_frames.

    Attributes:
        every: Of so many frames one is kept; by default as many frames are dropped as leave the kept ones whole.
        by: Which patches of a kept frame: at equal distances along the raster, or the most attended.
    """

    every: int | None = None
    by: Literal["uniform", "attention"] = "uniform"

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f"every must be 1 or more, got {self.every}")


def _check(budget: CompressionConfig, tile: TileShape) -> None:
    """Refuses a kept frame that would have to hold more than its patches."""
    every, most = budget.options.get("every"), tile.num_patches // budget.num_tokens
    if isinstance(every, int) and every > most:
        raise ValueError(
            f"compression {budget}: one of {every} frames would keep {every} x {budget.num_tokens} tokens, and a frame "
            f"has {tile.num_patches}; every= is at most {most}"
        )


def _needs(options: FewerFramesOptions) -> set[Need]:
    return {"saliency"} if options.by == "attention" else set()


def _patches(features: VisionFeatures, number: int, options: FewerFramesOptions) -> Tensor:
    """(T, number): patches of each frame, ascending."""
    if options.by == "attention":
        assert features.saliency is not None
        return features.saliency.topk(number, dim=1).indices.sort(dim=1).values
    frames, patches, _ = features.source.shape
    rank = torch.arange(number, device=features.content.device)
    return ((2 * rank + 1) * patches // (2 * number)).expand(frames, -1)


def choose(features: VisionFeatures, budget: CompressionConfig, options: FewerFramesOptions) -> Tensor:
    """All of one video's total in some of its frames, which have the same share of it, or one token more."""
    frames, patches, _ = features.source.shape
    kept = -(-frames // (options.every or patches // budget.num_tokens))
    share, more = divmod(frames * budget.num_tokens, kept)
    parts = []
    for place in range(kept):
        frame = (2 * place + 1) * frames // (2 * kept)
        parts.append(frame * patches + _patches(features, share + int(place < more), options)[frame])
    return torch.cat(parts)


@register_compressor(
    "fewer_frames",
    options=FewerFramesOptions,
    check=_check,
    places=("tower", "projected", "pooled"),
    needs_of=_needs,
    chooses=True,
    across=choose,
    source="a baseline",
)
def fewer_frames(features: VisionFeatures, budget: CompressionConfig, options: FewerFramesOptions) -> CompressedTokens:
    """Some frames of a video with all of its total, the others dropped; an image keeps its budget."""
    return keep_patches(features, _patches(features, budget.num_tokens, options))
