"""Selections in full precision: eight bits of mantissa, or autocast's products, would decide what is kept."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

Rule = Literal["reference", "distinct"]
"""`reference` does what the public code does; `distinct` always gives K tokens of K different patches."""


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off, on devices that have it."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def unit_rows(rows: Tensor) -> Tensor:
    """Rows (..., C) of length 1, fp32; no gradient flows through a selection."""
    return normalize(rows.detach().float(), dim=-1)
