"""Baselines: what a compressor must beat. Both keep `budget.num_tokens` patches, in raster order, and drop the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.registry import register_compressor
from llava.model.multimodal_compressor.types import CompressedTokens, Place, VisionFeatures, keep_patches

_ANYWHERE: tuple[Place, ...] = ("tower", "projected", "pooled")

# Multipliers of splitmix64 (Steele et al., OOPSLA 2014), as signed 64-bit integers.
_GOLDEN, _MIX_1, _MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def _mix(state: Tensor) -> Tensor:
    """splitmix64's finaliser: every input bit moves half of the output bits. int64 -> int64, same shape."""
    state = (state ^ ((state >> 30) & 0x3FFFFFFFF)) * _MIX_1
    state = (state ^ ((state >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return state ^ ((state >> 31) & 0x1FFFFFFFF)


@register_compressor("random", needs={"digest"}, places=_ANYWHERE, chooses=True)
def keep_random(features: VisionFeatures, budget: CompressionConfig) -> CompressedTokens:
    """Keeps patches drawn at random, seeded by its pixels and `budget.seed`: the same ones in any batch."""
    assert features.digest is not None
    patch = torch.arange(features.patches.shape[1], device=features.content.device)
    stream = _mix(features.digest + _mix(torch.full_like(features.digest, budget.seed) * _GOLDEN))  # (B,)
    score = _mix(stream.unsqueeze(1) + (patch + 1) * _GOLDEN)  # (B, P)
    return keep_patches(features, score.topk(budget.num_tokens, dim=1).indices.sort(dim=1).values)


@register_compressor("uniform", places=_ANYWHERE, chooses=True)
def keep_uniform(features: VisionFeatures, budget: CompressionConfig) -> CompressedTokens:
    """Keeps patches at equal distances along the raster."""
    batch, num_patches, _ = features.patches.shape
    rank = torch.arange(budget.num_tokens, device=features.content.device)
    index = (2 * rank + 1) * num_patches // (2 * budget.num_tokens)
    return keep_patches(features, index.expand(batch, -1))
