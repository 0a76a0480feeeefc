"""Which attention a model is loaded with by default."""

from __future__ import annotations

import torch
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available


def default_attention(device: torch.device, dtype: torch.dtype | str | None) -> str:
    """Flash attention where it is installed and can run, the newest first; else PyTorch's own.

    Padded batches are what it gains on: PyTorch's attention has no flash kernel for a mask.

    Args:
        device: Where the model goes.
        dtype: Of its weights, or its name; flash attention knows half precision only.
    """
    is_half = str(dtype).removeprefix("torch.") in ("float16", "bfloat16")
    if device.type != "cuda" or not is_half:
        return "sdpa"
    if is_flash_attn_3_available():
        return "flash_attention_3"
    return "flash_attention_2" if is_flash_attn_2_available() else "sdpa"
