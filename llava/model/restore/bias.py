"""What RESTORE adds to attention.

Shapes: B prompts, L rows, T distances.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llava.model.restore.placed_rows import PlacedRows

_CEILING = 2.0  # c of log(c - D)
_FREQUENCIES, _BASE = 64, 10000.0  # of a head of 128 channels; the public code has them fixed, whatever the model


def decay(distance: Tensor) -> Tensor:
    """D: the mean of cos(t f) over the frequencies f of a rotation, which is 1 at t = 0 and falls with distance.

    Args:
        distance: (T,), t.

    Returns:
        (T,), float32.
    """
    exponent = torch.arange(_FREQUENCIES, dtype=torch.float64, device=distance.device) / _FREQUENCIES
    return torch.cos(distance.double().unsqueeze(1) * _BASE**-exponent).mean(dim=1).float()


def distance_bias(rows: PlacedRows) -> Tensor:
    """log(c - D) of the distance between a query and a key before it; 0 without an image, and for queries of an answer.

    Args:
        rows: Of the batch.

    Returns:
        (B, L, L), float32.
    """
    table = (_CEILING - decay(torch.arange(rows.farthest + 1, device=rows.positions.device))).log()
    distance = (rows.positions.unsqueeze(2) - rows.positions.unsqueeze(1)).clamp(min=0)
    is_told = rows.has_image.unsqueeze(1) & ~rows.is_answer
    return table[distance] * is_told.unsqueeze(2)


def prompt_masks(rows: PlacedRows, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What is added to the attention of prompts, causal, in the first layer and in the others.

    Args:
        rows: Of the batch.
        dtype: Of the hidden states.

    Returns:
        (B, 1, L, L) each.
    """
    place = torch.arange(rows.valid.shape[1], device=rows.valid.device)
    is_seen = rows.valid.unsqueeze(1) & (place <= place.unsqueeze(1))
    by_distance = distance_bias(rows)
    hidden = torch.finfo(dtype).min

    def mask(log_sizes: Tensor) -> Tensor:
        return torch.where(is_seen, (by_distance + log_sizes.unsqueeze(1)).to(dtype), hidden).unsqueeze(1)

    return mask(rows.first_log_sizes), mask(rows.log_sizes)


def answer_masks(rows: PlacedRows, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What is added to the attention of a new token to the prompt: sizes, and no distance.

    Args:
        rows: Of the prompts.
        dtype: Of the hidden states.

    Returns:
        (B, 1, 1, L) each, for the first layer and the others.
    """
    hidden = torch.finfo(dtype).min
    first, others = (
        torch.where(rows.valid, sizes.to(dtype), hidden)[:, None, None]
        for sizes in (rows.first_log_sizes, rows.log_sizes)
    )
    return first, others
