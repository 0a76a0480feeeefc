"""A tensor that is read when it is needed, so that models are loaded and exported one tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""The format's names of dtypes."""


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity; one of whole numbers never does."""
    if not tensor.is_floating_point():
        return True
    return bool(torch.isfinite(tensor.float() if tensor.dtype.itemsize == 1 else tensor).all())


@dataclass(frozen=True)
class StoredTensor:
    """What is known of a tensor before it is read.

    transformers takes one for a tensor of a state dict, and asks for its value by `[...]` when its turn comes.

    Attributes:
        shape: Of the whole tensor.
        dtype: That it will have when it is read.
        pieces: Reads it: contiguous pieces along the first axis, in order.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Callable[[], Sequence[Tensor]]

    @classmethod
    def of(cls, tensor: Tensor) -> StoredTensor:
        """A tensor that is there already."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: (tensor,))

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes on disk."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """The whole tensor, in memory."""
        pieces = self.pieces()
        return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))

    def __getitem__(self, everything: EllipsisType) -> Tensor:
        return self.read()

    def is_floating_point(self) -> bool:
        """As torch's, for transformers' `dtype="auto"`."""
        return self.dtype.is_floating_point

    def with_rows(self, rows: Tensor) -> StoredTensor:
        """With further rows at its end.

        Args:
            rows: (R, ...), of the same width.
        """
        rows = rows.to(self.dtype)
        return StoredTensor((self.shape[0] + len(rows), *self.shape[1:]), self.dtype, lambda: (*self.pieces(), rows))

    def first_rows(self, count: int) -> StoredTensor:
        """Without the rows from `count` on."""
        return StoredTensor((count, *self.shape[1:]), self.dtype, lambda: (self.read()[:count],))
