"""PyTorch's attention for samples laid end to end: each attends to itself, and nothing is computed between two.

Under a block mask PyTorch computes a row's every pair of tokens and throws most away. Here a packed row is cut where
samples end, as flash attention's kernels for various lengths do it, for devices and installations without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils.import_utils import is_tracing

from llava.constants import SDPA_BY_SAMPLE


def attend_by_sample(model: Any) -> None:
    """Has a model with PyTorch's attention use this one; a model with another attention is left as it is.

    Args:
        model: One of this package's, not wrapped. Batches that are not packed are computed as before.
    """
    config = model.model.language_model.config
    if config._attn_implementation == "sdpa" and not getattr(config, "sliding_window", None):
        model.set_attn_implementation({"text_config": SDPA_BY_SAMPLE})


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sample_lengths: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' calling convention: (1, heads, L, d) and the lengths of the samples that make L.

    Raises:
        ValueError: Samples are packed, and their lengths are not given, or some are longer than the layer looks back.
    """
    if sample_lengths is None:
        if attention_mask is not None and attention_mask.numel() == 0:
            raise ValueError(
                "position_ids start anew within a row, so samples are packed, and sample_lengths is missing: pass "
                "packing=True to the model, or **varlen_arguments(position_ids, 'sdpa_by_sample') of "
                "llava.model.packing, or load with attn_implementation='sdpa', which masks such rows"
            )
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    window = kwargs.get("sliding_window")
    if window is not None and max(sample_lengths) > window:
        raise ValueError(
            f"a sample of {max(sample_lengths)} tokens is longer than sliding_window {window} of the language model, "
            "which attention by sample does not keep to: load with attn_implementation='sdpa'"
        )
    queries, keys, values = (part.split(list(sample_lengths), dim=2) for part in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    outputs = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=grouped)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> Tensor | None:
    """An empty one for packed samples, which transformers knows by positions that restart; else PyTorch's own mask.

    None would mean a row that is one sample. While a graph is traced, transformers takes every row for packed.
    """
    is_packed = attention_mask is None and not allow_is_causal_skip and 1 < q_length == kv_length
    if is_packed and not is_tracing():
        return torch.empty(0, device=kwargs.get("device"))
    kwargs |= {"attention_mask": attention_mask, "allow_is_causal_skip": allow_is_causal_skip}
    return sdpa_mask(batch_size=batch_size, q_length=q_length, kv_length=kv_length, **kwargs)


# By transformers' own way to add an attention; nothing that was there is replaced.
AttentionInterface.register(SDPA_BY_SAMPLE, _attention)
AttentionMaskInterface.register(SDPA_BY_SAMPLE, _mask)
