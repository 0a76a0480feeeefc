"""Pooling of frames: features, keys and saliency alike, so that a compressor chooses among the pooled patches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from llava.model.multimodal_compressor import VisionFeatures

Pool = Callable[[Tensor], Tensor]
"""(B, C, h, w) to (B, C, h', w')."""


def pooled_side(side: int, pool: Pool) -> int:
    """Rows, and columns, that are left of a square grid."""
    return int(pool(torch.zeros(1, 1, side, side)).shape[-1])


def pool_rows(rows: Tensor, grid: tuple[int, int], pool: Pool, num_cls: int = 0) -> Tensor:
    """Pools patches on their grid; rows before them stay.

    Args:
        rows: (B, num_cls + P, C).
        grid: (h, w), P = h * w.
        pool: What is done to planes.
        num_cls: How many rows stand in front of the patches.

    Returns:
        (B, num_cls + P', C).
    """
    planes = rows[:, num_cls:].transpose(1, 2).unflatten(2, grid)
    pooled = pool(planes).flatten(2).transpose(1, 2)
    return torch.cat([rows[:, :num_cls], pooled], dim=1) if num_cls else pooled


def pool_features(features: VisionFeatures, pool: Pool, projected: Tensor | None = None) -> VisionFeatures:
    """What a compressor is told of pooled frames; the CLS token's row of `content` is dropped.

    Args:
        features: Of F frames, `content` the tower's rows.
        pool: What is done to planes.
        projected: (F, P, D), the patches after the projector, if that stands before the pooling: what is kept are then
            rows of these.
    """
    grid, cls = features.grid, int(features.saliency_has_cls)
    source = pool_rows(features.source, grid, pool)
    content = source if projected is None else pool_rows(projected, grid, pool)
    found = {name: _pooled(getattr(features, name), grid, pool) for name in ("saliency", "cls_attention")}
    qk = features.last_layer_qk
    shape = pool(torch.empty(1, 1, *grid, device="meta")).shape
    return replace(
        features,
        content=content,
        has_cls=False,
        source=source,
        grid=(int(shape[-2]), int(shape[-1])),
        keys=None if features.keys is None else pool_rows(features.keys, grid, pool, cls),
        last_layer_qk=None if qk is None else (pool_rows(qk[0], grid, pool, cls), pool_rows(qk[1], grid, pool, cls)),
        projected=None if projected is None else content,
        padding=None if features.padding is None else source.new_zeros(source.shape[:2], dtype=torch.bool),
        **found,
    )


def _pooled(values: Tensor | None, grid: tuple[int, int], pool: Pool) -> Tensor | None:
    """(B, P) or (B, H, P), pooled along its last axis."""
    if values is None:
        return None
    if values.dim() == 2:
        return pool_rows(values.unsqueeze(-1), grid, pool).squeeze(-1)
    return pool_rows(values.transpose(1, 2), grid, pool).transpose(1, 2)


__all__ = ["Pool", "pool_features", "pool_rows", "pooled_side"]
