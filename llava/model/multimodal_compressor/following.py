"""Which token holds each patch, for pictures of what a method does: found by sending marked rows through it.

Shapes: B tiles, P patches, N rows of the content, K tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.registry import BoundCompressor
from llava.model.multimodal_compressor.types import CompressedTokens, VisionFeatures


def following(bound: BoundCompressor) -> BoundCompressor:
    """The same compressor, whose tokens come with their `assignment`.

    A method that merges is run a second time on rows of which each is a unit vector of its own: what it makes of them
    says which rows it has put together, whatever the method. Where the marked rows lead it to another choice, because
    it chooses by the content, only the patches at which tokens stand count as held.

    Args:
        bound: Any compressor with its budget.
    """
    compressor = bound.compressor
    merges = not compressor.can_restore(bound.options)

    def follow(features: VisionFeatures, budget: CompressionConfig, *options: Any) -> CompressedTokens:
        kept = compressor.function(features, budget, *options)
        if kept.assignment is not None:
            return kept
        held = _at_positions(kept, features.patches.shape[1])
        if merges:
            marked = compressor.function(replace(features, content=_marks(features.content)), budget, *options)
            is_same = (marked.positions == kept.positions).all() & (marked.sizes == kept.sizes).all()
            held = torch.where(is_same, _largest_share(marked.tokens[:, :, int(features.has_cls) :]), held)
        return replace(kept, assignment=held)

    return replace(bound, compressor=replace(compressor, function=follow))


def _marks(content: Tensor) -> Tensor:
    """(B, N, N): a unit vector for each row of the content (B, N, C)."""
    batch, rows, _ = content.shape
    return torch.eye(rows, dtype=content.dtype, device=content.device).expand(batch, -1, -1)


def _largest_share(tokens: Tensor) -> Tensor:
    """(B, P): the token that has most of each patch, of the marked tokens (B, K, P); -1 where none has any."""
    most = tokens.max(dim=1)
    return torch.where(most.values > 0, most.indices, -1)


def _at_positions(kept: CompressedTokens, num_patches: int) -> Tensor:
    """(B, P): the token that stands at each patch; -1 where none does."""
    rows = torch.arange(kept.positions.shape[1], device=kept.positions.device).expand_as(kept.positions)
    stands = kept.positions.long()
    held = rows.new_full((len(rows), num_patches + 1), -1)  # what is no patch goes into the last column
    return held.scatter(1, torch.where(stands < 0, num_patches, stands), rows)[:, :num_patches]
