"""What methods keep that choose among all frames of a video at once: its total is fixed, a frame's share is not.

Shapes: F frames of all videos, T of one, P patches a frame, K tokens of a frame's budget, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llava.model.multimodal_compressor.feature_batches import split_features
from llava.model.multimodal_compressor.registry import BoundCompressor
from llava.model.multimodal_compressor.types import VisionFeatures


@dataclass(frozen=True)
class SharedClips:
    """What is kept of the frames of some videos.

    Attributes:
        tokens: (F * K, C), video after video and frame after frame, a frame's in raster order.
        numbers: (F,), int64, how many of them are each frame's; those of a video add up to T * K.
    """

    tokens: Tensor
    numbers: Tensor

    def per_frame(self, tokens: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
        """Rows apart by frames; waits for the device once, for the numbers.

        Args:
            tokens: (F * K, D), `tokens` or what a projector made of them.

        Returns:
            (F, most of a frame, D), a frame's own first, and how many these are, none of them merged.
        """
        numbers: list[int] = self.numbers.tolist()
        return pad_sequence(list(tokens.split(numbers)), batch_first=True), [(number, 0) for number in numbers]


def choose_across(bound: BoundCompressor, features: VisionFeatures, counts: Sequence[int]) -> SharedClips:
    """Each video by itself; no shape depends on what is seen.

    Args:
        bound: A compressor that chooses across frames.
        features: Of F frames, as the compressor takes them.
        counts: Frames of each video.

    Raises:
        RuntimeError: The method named another number of patches than T * K.
    """
    across = bound.compressor.across
    assert across is not None
    tokens, numbers = [], []
    for count, clip in zip(counts, split_features(features, counts), strict=True):
        index = across(clip, bound.budget, bound.options)
        total = count * bound.budget.num_tokens
        if index.shape != (total,):
            raise RuntimeError(
                f"compressor {bound.compressor.name!r} named {tuple(index.shape)} patches of {count} frames for the "
                f"budget {bound.budget}, which is {total} in all"
            )
        tokens.append(clip.patches.flatten(0, 1).index_select(0, index))
        frame = torch.div(index, clip.patches.shape[1], rounding_mode="floor")
        numbers.append(index.new_zeros(count).scatter_add(0, frame, torch.ones_like(frame)))
    return SharedClips(torch.cat(tokens), torch.cat(numbers))
