"""Rows of numbers as a store holds them, and how far these are from what was computed.

Shapes: R rows, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llava.encoded.errors import StoreError
from llava.encoded.layout import TORCH_TYPES, StoredType

_LARGEST_INT8 = 127


def pack_rows(rows: Tensor, stored: StoredType) -> tuple[Tensor, Tensor | None]:
    """Brings rows into the type of the disk.

    Args:
        rows: (R, C), of any float type.
        stored: `int8` scales each row so that its largest number is 127.

    Returns:
        (R, C) of that type, and for `int8` the scales (R,), float32; else None.

    Raises:
        StoreError: A number is not finite, or too large for the type.
    """
    rows = rows.detach().cpu()
    if not rows.isfinite().all():
        raise StoreError("the model's features are not finite: its weights are damaged, or overflow in its dtype")
    scales = None
    if stored == "int8":
        wide = rows.float()
        scales = wide.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / _LARGEST_INT8
        packed = (wide / scales.unsqueeze(1)).round().to(torch.int8)
    else:
        packed = rows.to(TORCH_TYPES[stored])
    if stored == "float16" and not packed.isfinite().all():
        largest = float(rows.abs().amax())
        raise StoreError(f"a feature of {largest:.3g} does not fit {stored}; take bfloat16 or float32 to store")
    return packed.contiguous(), scales


def unpack_rows(packed: Tensor, scales: Tensor | None, computed: StoredType) -> Tensor:
    """(R, C) in the type in which the rows were computed; of `pack_rows`."""
    if scales is not None:
        return (packed.float() * scales.unsqueeze(1)).to(TORCH_TYPES[computed])
    return packed.to(TORCH_TYPES[computed])


@dataclass
class Rounding:
    """How far stored rows are from the computed ones.

    Attributes:
        errors: Sum of the squared differences.
        squares: Sum of the squared numbers.
        largest: The largest difference of a number, as a share of the largest number of its row.
    """

    errors: float = 0.0
    squares: float = 0.0
    largest: float = 0.0

    @property
    def rms(self) -> float:
        """Root of the mean squared difference, as a share of that of the numbers."""
        return math.sqrt(self.errors / self.squares) if self.squares else 0.0

    def measure(self, rows: Tensor, packed: Tensor, scales: Tensor | None) -> None:
        """Adds rows (R, C), and what `pack_rows` made of them."""
        exact = rows.detach().cpu().double()
        back = packed.double() if scales is None else packed.double() * scales.double().unsqueeze(1)
        differences = (back - exact).abs()
        self.errors += float(differences.square().sum())
        self.squares += float(exact.square().sum())
        shares = differences.amax(dim=1) / exact.abs().amax(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
        self.largest = max(self.largest, float(shares.amax()))

    def add(self, other: Rounding) -> None:
        """Adds what was measured elsewhere."""
        self.errors += other.errors
        self.squares += other.squares
        self.largest = max(self.largest, other.largest)

    def to_json(self) -> list[float]:
        """For an index."""
        return [self.errors, self.squares, self.largest]

    @classmethod
    def from_json(cls, entries: Sequence[float]) -> Rounding:
        """Reads what `to_json` gave; raises TypeError or ValueError where it is something else."""
        errors, squares, largest = map(float, entries)
        return cls(errors, squares, largest)
