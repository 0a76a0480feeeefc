"""Samples laid end to end, so that nothing is spent on padding.

The samples of a batch share rows. Each starts again at position 0, and attention stays inside a sample: transformers
derives a block-diagonal mask from positions that restart; flash attention and `sdpa_by_sample` take the lengths. What
is computed is the unpacked batch, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llava.constants import SDPA_BY_SAMPLE

# `rows`: several rows under a block mask. `single_row`: one row, for kernels that take the samples' lengths.
PackingLayout = Literal["rows", "single_row"]

_MASKED_ATTENTION = ("sdpa", "eager", "flex_attention")

# Under a mask, a token's attention to so many places takes about as long as its matrix products in a 7B model.
_ATTENTION_BALANCE = 8192


@dataclass(frozen=True)
class PackedRows:
    """Where each sample lies.

    Attributes:
        row: (B,), of each sample.
        offset: (B,), the column of its first token.
        filled: (rows,), tokens in each row; what follows them is padding.
        width: Columns.
    """

    row: Tensor
    offset: Tensor
    filled: Tensor
    width: int


def packing_layout(attn_implementation: str) -> PackingLayout:
    """The layout that keeps samples apart under an attention of transformers.

    Raises:
        ValueError: This attention has no known way to mark where samples end.
    """
    if attn_implementation in _MASKED_ATTENTION:
        return "rows"
    # "flash" is transformers' own rule for the family, kernels from the Hub included.
    if attn_implementation == SDPA_BY_SAMPLE or "flash" in attn_implementation:
        return "single_row"
    raise ValueError(
        f"packing is not supported with attention {attn_implementation!r}; choose sdpa, eager, flex_attention or a "
        "flash attention, or train without --packing"
    )


def pack_samples(lengths: Tensor, layout: PackingLayout) -> PackedRows:
    """Assigns samples to rows, as many as cost least: fewer leave less padding, but more places to attend to.

    Args:
        lengths: (B,), tokens of each sample.
        layout: `single_row` puts all of them into one row, in order.
    """
    if layout == "single_row":
        total = lengths.sum()
        return PackedRows(torch.zeros_like(lengths), lengths.cumsum(0) - lengths, total.unsqueeze(0), int(total))
    sizes = lengths.tolist()
    layouts = (balanced_rows(sizes, count) for count in range(1, len(sizes) + 1))
    row, offset, filled = min(layouts, key=lambda layout: _cost(layout[2]))

    def on_device(values: list[int]) -> Tensor:
        return torch.tensor(values, device=lengths.device)

    return PackedRows(on_device(row), on_device(offset), on_device(filled), max(filled))


def balanced_rows(sizes: Sequence[int], num_rows: int) -> tuple[list[int], list[int], list[int]]:
    """Deals samples, longest first, each to the row that is filled least.

    Returns:
        The row and the offset of each sample, and how far each row is filled.
    """
    row, offset, filled = [0] * len(sizes), [0] * len(sizes), [0] * num_rows
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        place = filled.index(min(filled))
        row[index], offset[index] = place, filled[place]
        filled[place] += sizes[index]
    return row, offset, filled


def _cost(filled: Sequence[int]) -> int:
    width = max(filled)
    return len(filled) * width * (width + _ATTENTION_BALANCE)


def padding_positions(rows: PackedRows) -> Tensor:
    """(rows, width): positions by which the padding at the end of a row counts as a sample of its own."""
    return torch.arange(rows.width, device=rows.filled.device) - rows.filled.unsqueeze(1)


def varlen_arguments(position_ids: Tensor, attn_implementation: str) -> dict[str, Tensor | int | list[int]]:
    """What an attention for samples of various lengths takes: flash attention's kernels, or `sdpa_by_sample`.

    transformers finds the former by itself, but once a layer, each time waiting for the device.

    Args:
        position_ids: (1, L), 0 where a sample starts.
        attn_implementation: Of the language model.
    """
    starts = (position_ids[0] == 0).nonzero().flatten()
    bounds = torch.cat([starts, starts.new_tensor([position_ids.shape[1]])]).to(torch.int32)
    lengths = bounds.diff().tolist()
    if attn_implementation == SDPA_BY_SAMPLE:
        return {"sample_lengths": lengths}
    longest = max(lengths)
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
