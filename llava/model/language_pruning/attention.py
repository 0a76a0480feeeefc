"""Attention of a few queries, computed apart, so that the layers themselves run under any attention kernel.

Shapes: B prompts, Q queries, L keys, H heads of queries in G groups of heads of keys, D channels, d channels a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rotated(values: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates values (B, heads, L, d) to their positions, channel i together with channel i + d / 2.

    The same as transformers does in the layers; its function is not imported, for that takes seconds.

    Args:
        values: Of queries or keys.
        rotation: cos and sin (B, L, d).
    """
    cos, sin = (part.to(values).unsqueeze(1) for part in rotation)
    first, second = values.chunk(2, dim=-1)
    return values * cos + torch.cat([-second, first], dim=-1) * sin


def rotated_keys(layer: Any, hidden: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Keys that a layer makes of hidden states, rotated to their positions.

    Args:
        layer: Of a Llama or Qwen2.
        hidden: (B, L, D), what enters the layer.
        rotation: cos and sin (B, L, d).

    Returns:
        (B, G, L, d).
    """
    attention = layer.self_attn
    keys = attention.k_proj(layer.input_layernorm(hidden))
    keys = keys.view(*hidden.shape[:2], -1, attention.head_dim).transpose(1, 2)
    return rotated(keys, rotation)


def rotated_queries(layer: Any, hidden: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """As `rotated_keys`, for queries: (B, H, Q, d)."""
    attention = layer.self_attn
    queries = attention.q_proj(layer.input_layernorm(hidden))
    queries = queries.view(*hidden.shape[:2], -1, attention.head_dim).transpose(1, 2)
    return rotated(queries, rotation)


def attention_logits(queries: Tensor, keys: Tensor, scaling: float) -> Tensor:
    """Scaled products (B, H, Q, L) of queries (B, H, Q, d) with keys (B, G, L, d), each head with its group's."""
    batch, heads, count, width = queries.shape
    groups = keys.shape[1]
    grouped = queries.reshape(batch, groups, heads // groups * count, width)
    return (grouped @ keys.transpose(2, 3)).view(batch, heads, count, keys.shape[2]) * scaling


def attention_weights(queries: Tensor, keys: Tensor, scaling: float, visible: Tensor) -> Tensor:
    """Attention of some queries, as eager attention computes it.

    Args:
        queries: (B, H, Q, d), rotated.
        keys: (B, G, L, d), rotated.
        scaling: Of the products.
        visible: (B, Q, L), bool.

    Returns:
        (B, H, Q, L), float32.
    """
    logits = attention_logits(queries, keys.to(queries), scaling).float()
    return torch.softmax(logits.masked_fill(~visible.unsqueeze(1), torch.finfo(torch.float32).min), dim=-1)
