"""A tensor that is read when it is written, so that a model need not fit into memory to be exported."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StoredTensor:
    """What is known of a tensor before it is read.

    Attributes:
        shape: Of the whole tensor.
        dtype: As it will be written.
        pieces: Reads it: contiguous pieces along the first axis, in order.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Callable[[], Sequence[Tensor]]

    @classmethod
    def of(cls, tensor: Tensor) -> StoredTensor:
        """A tensor that is there already, mapped from a file or in memory."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: (tensor,))

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes on disk."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """The whole tensor, in memory."""
        pieces = self.pieces()
        return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))

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
