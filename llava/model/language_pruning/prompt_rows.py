"""The rows of a batch of prompts on their way through the layers, and what is left of them.

Shapes: B prompts, L rows, D channels, I images of the prompt that has the most, M rows that are made of dropped ones.
Prompts end together: padding stands before them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PromptRows:
    """Rows between two layers.

    Attributes:
        hidden: (B, L, D).
        valid: (B, L), bool, whether a row is one of a prompt; None where all are.
        owner: (B, L), int64: the number of the image in its prompt, -1 for text and padding.
        positions: (B, L), int64, for the rotation.
    """

    hidden: Tensor
    valid: Tensor | None
    owner: Tensor
    positions: Tensor

    @property
    def width(self) -> int:
        """L."""
        return self.hidden.shape[1]

    @property
    def is_row(self) -> Tensor:
        """(B, L), bool."""
        return torch.ones_like(self.owner, dtype=torch.bool) if self.valid is None else self.valid

    def with_hidden(self, hidden: Tensor) -> PromptRows:
        """The same rows behind some layers, all on the device of these."""
        valid = None if self.valid is None else self.valid.to(hidden.device)
        return PromptRows(hidden, valid, self.owner.to(hidden.device), self.positions.to(hidden.device))

    def gather(self, index: Tensor, valid: Tensor | None) -> PromptRows:
        """Some of the rows.

        Args:
            index: (B, W), int64.
            valid: (B, W), which of them count; None for all.
        """
        owner = self.owner.gather(1, index)
        return PromptRows(
            gather_rows(self.hidden, index),
            valid,
            owner if valid is None else torch.where(valid, owner, -1),
            self.positions.gather(1, index),
        )

    def without(self, dropped: Tensor, width: int, has_padding: bool, merged: MergedRows | None = None) -> PromptRows:
        """What is left, in order; merged rows stand behind those of their image that are kept.

        Args:
            dropped: (B, L), bool.
            width: The longest prompt that is left.
            has_padding: Whether a prompt that is left is shorter.
            merged: Rows that are made of dropped ones; their positions are those of their image's last row.
        """
        place = 2 * torch.arange(self.width, device=self.owner.device).expand_as(self.owner)
        place = torch.where(dropped | ~self.is_row, -1, place)
        rows = self
        if merged is not None:
            rows, place = self._with(merged, place)
        index = place.argsort(dim=1, stable=True)[:, -width:]
        return rows.gather(index, place.gather(1, index) >= 0 if has_padding else None)

    def _with(self, merged: MergedRows, place: Tensor) -> tuple[PromptRows, Tensor]:
        """The rows (B, L + M) with merged ones at their end, and where each belongs."""
        column = torch.arange(self.width, device=self.owner.device)
        is_own = self.owner.unsqueeze(1) == merged.owner.unsqueeze(2)  # (B, M, L)
        end = torch.where(is_own, column, -1).amax(dim=2)
        position = torch.where(is_own, self.positions.unsqueeze(1), 0).amax(dim=2)
        rows = PromptRows(
            torch.cat([self.hidden, merged.hidden.to(self.hidden)], dim=1),
            None,
            torch.cat([self.owner, merged.owner], dim=1),
            torch.cat([self.positions, position], dim=1),
        )
        return rows, torch.cat([place, torch.where(merged.owner >= 0, 2 * end + 1, -1)], dim=1)


@dataclass(frozen=True)
class MergedRows:
    """Rows that are made of dropped ones.

    Attributes:
        hidden: (B, M, D).
        owner: (B, M), the image that each is of, -1 for padding.
    """

    hidden: Tensor
    owner: Tensor


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows of values (B, L, D) by index (B, W): (B, W, D)."""
    return values.gather(1, index.unsqueeze(2).expand(-1, -1, values.shape[2]))


def places_within_images(scores: Tensor, owner: Tensor) -> Tensor:
    """Which place each row takes among those of its image by score, from 0 on; of equal ones the first comes first.

    Args:
        scores: (B, L).
        owner: (B, L), int64.

    Returns:
        (B, L), int64; of text and padding without meaning.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, owner.gather(1, order).argsort(dim=1, stable=True))
    sorted_owner = owner.gather(1, order)  # image by image, the best of each first
    column = torch.arange(owner.shape[1], device=owner.device).expand_as(owner)
    place = column - torch.searchsorted(sorted_owner, sorted_owner)
    return torch.zeros_like(owner).scatter(1, order, place)


def padding_first_index(valid: Tensor) -> Tensor:
    """(B, L), where each row comes from when all padding is moved before the prompts."""
    return valid.long().argsort(dim=1, stable=True)


def padding_last_index(valid: Tensor) -> Tensor:
    """(B, L), where each row comes from when all padding is moved behind the prompts."""
    return (~valid).long().argsort(dim=1, stable=True)
