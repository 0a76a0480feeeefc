"""bitsandbytes' settings: the language model in 4 or 8 bits, all else in full precision."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from llava.kinds.families import FAMILIES

_KEPT = ("model.vision_tower", "model.multi_modal_projector", "lm_head")  # full paths: short names skip nothing


class _AboutKernels(logging.Filter):
    """Drops the advice to install another package for 4 bits on a CPU, and nothing else."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "gemm_4bit" not in record.getMessage()


def import_bitsandbytes() -> bool:
    """Imports bitsandbytes, where it is installed, without the advice that it logs at every start on a CPU.

    Returns:
        Whether it can be used.
    """
    if find_spec("bitsandbytes") is None:
        return False
    speaker, quiet = logging.getLogger("bitsandbytes.backends.cpu.ops"), _AboutKernels()
    speaker.addFilter(quiet)
    try:
        import_module("bitsandbytes")
    except Exception:  # of an unfit driver, or its own; whoever needs it says so
        return False
    finally:
        speaker.removeFilter(quiet)
    return True


def unpack_projector(model: Any) -> None:
    """Makes full-precision layers of a projector that came quantised, so that it can be trained; same values.

    Args:
        model: One of this package's; a projector that is not quantised stays as it is.
    """
    model.is_quantized = False  # else transformers' Trainer asks for adapters, whatever part it is to train
    projector = model.model.multi_modal_projector
    packed = [
        (name, layer)
        for name, layer in projector.named_children()
        if isinstance(layer, nn.Linear) and not layer.weight.is_floating_point()
    ]
    for name, layer in packed:
        weight = _unpacked(layer).to(layer.bias.dtype)
        full = nn.Linear(layer.in_features, layer.out_features, device=weight.device, dtype=weight.dtype)
        full.weight, full.bias = nn.Parameter(weight), layer.bias
        setattr(projector, name, full)


def _unpacked(layer: Any) -> torch.Tensor:
    """The weight (out, in) that a quantised layer multiplies with."""
    functional = import_module("bitsandbytes.functional")
    weight: torch.Tensor
    if getattr(layer.weight, "SCB", None) is not None:
        weight = functional.int8_vectorwise_dequant(layer.weight.data, layer.weight.SCB)
    else:
        weight = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight


def bitsandbytes_config(
    bits: int, compute_dtype: torch.dtype, *, quant_type: str = "nf4", double_quant: bool = True
) -> Any:
    """Makes transformers' `BitsAndBytesConfig`; vision towers, a family's own parts, projector and head are left out.

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
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_kept())
    if bits != 4:
        raise ValueError(f"bits {bits}: bitsandbytes has 4 and 8")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_skip_modules=_kept(),
    )


def _kept() -> list[str]:
    """What stays in full precision, of every family: a name that a model lacks does nothing."""
    return [*_KEPT, *(f"model.{part}" for family in FAMILIES for part in family.vision_parts)]
