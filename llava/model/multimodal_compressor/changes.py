"""What is new since the frame before, this project's own: neighbouring frames of a video repeat each other.

Shapes: T frames of one video, P patches a frame, C channels, K tokens of a frame's budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.registry import register_compressor
from llava.model.multimodal_compressor.types import CompressedTokens, VisionFeatures, keep_patches

_SAME = 1e-3  # a smaller change is rounding; among patches that are the same attention decides


@dataclass(frozen=True)
class ChangesOptions:
    """Options of changes.

    Attributes:
        alpha: The power of the attention that a patch receives, above 0; near 0 what is new decides alone, and of the
            first frame, which is all new, more is kept.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"alpha must be above 0, got {self.alpha}")


def novelty(rows: Tensor) -> Tensor:
    """How much each patch differs from the one at its place in the frame before: 1 less their cosine.

    A frame's mean is taken off its rows first: it is the larger part of all of them, also of what a tower adds to
    tell frames apart. All of the first frame is new.

    Args:
        rows: (T, P, C), any float type; no gradient flows through a selection.

    Returns:
        (T, P), fp32, 1 in the first frame, elsewhere from a little above 0 for the same to 2.
    """
    rows = rows.detach().float()
    unit = normalize(rows - rows.mean(dim=1, keepdim=True), dim=2)
    same = (unit[1:] * unit[:-1]).sum(dim=2)
    return torch.cat([torch.ones_like(unit[:1, :, 0]), 1 - same]).clamp(min=_SAME)


def choose(features: VisionFeatures, budget: CompressionConfig, options: ChangesOptions) -> Tensor:
    """The patches of one video with the highest novelty times attention, and of each frame the best one at least."""
    score = novelty(features.source) * features.attention_shares.pow(options.alpha)  # (T, P)
    score = score.scatter(1, score.argmax(dim=1, keepdim=True), torch.inf)
    return score.flatten().topk(len(score) * budget.num_tokens).indices.sort().values


@register_compressor(
    "changes",
    needs={"saliency"},
    options=ChangesOptions,
    places=("tower", "projected", "pooled"),
    chooses=True,
    across=choose,
    source="this project's own",
)
def changes(features: VisionFeatures, budget: CompressionConfig, options: ChangesOptions) -> CompressedTokens:
    """What is new since the frame before, the frames of a video sharing its total; of an image what is attended most.

    An image is a video of one frame: all of it is new.
    """
    assert features.saliency is not None
    return keep_patches(features, features.saliency.topk(budget.num_tokens, dim=1).indices.sort(dim=1).values)
