"""bitsandbytes' settings: the language model in 4 or 8 bits, all else in full precision."""

from __future__ import annotations

from typing import Any

import torch

# Full paths: short names skip nothing.
_KEPT = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]


def bitsandbytes_config(
    bits: int, compute_dtype: torch.dtype, *, quant_type: str = "nf4", double_quant: bool = True
) -> Any:
    """Makes transformers' `BitsAndBytesConfig`; vision tower, projector and head are left out of it.

    Args:
        bits: 4 or 8.
        compute_dtype: In which 4-bit weights are multiplied.
        quant_type: Of 4 bits, `nf4` or `fp4`.
        double_quant: Whether the scales of 4 bits are quantised too.

    Raises:
        ValueError: `bits` is another number.
    """
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(_KEPT))
    if bits != 4:
        raise ValueError(f"bits {bits}: bitsandbytes has 4 and 8")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_skip_modules=list(_KEPT),
    )
