"""What passes through the seam between the vision tower and the projector.

Shapes: B tiles, P patches, N = P + 1 with a CLS token (else N = P), C channels, d channels of a head, K kept tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TileShape:
    """What is known of a tile before it is encoded.

    Attributes:
        grid: (h, w), the patches' rows and columns.
        has_cls: Whether the tower has a CLS token.
    """

    grid: tuple[int, int]
    has_cls: bool

    @property
    def num_patches(self) -> int:
        """P = h * w."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class VisionFeatures:
    """What a tower tells a compressor about B tiles. `keys`, `saliency` and `digest` are there only if asked for.

    Attributes:
        hidden_states: (B, N, C), the selected layer's output, CLS first where the tower has one.
        grid: (h, w), the patches' rows and columns; P = h * w.
        has_cls: Whether row 0 of `hidden_states` is a CLS token.
        keys: (B, N, d), keys of the selected layer, mean over the heads, fp32.
        saliency: (B, P), attention that a patch receives in the selected layer, fp32.
        digest: (B,), int64, a hash of the tile's pixels, the same in any batch.
    """

    hidden_states: Tensor
    grid: tuple[int, int]
    has_cls: bool
    keys: Tensor | None = None
    saliency: Tensor | None = None
    digest: Tensor | None = None

    @property
    def patches(self) -> Tensor:
        """(B, P, C): the hidden states without the CLS token."""
        return self.hidden_states[:, 1:] if self.has_cls else self.hidden_states


@dataclass(frozen=True)
class CompressedTokens:
    """K tokens for each of B tiles. K is known from the budget alone.

    Attributes:
        tokens: (B, K, C), dominant tokens first, in raster order (CLS before the patches), then the contextual ones.
        positions: (B, K), -1 for CLS, a patch's index, or for a contextual token the index of its target patch.
        sizes: (B, K), 1, or for a contextual token 1 + the number of tokens merged into it.
        num_dominant: How many of the K are dominant, CLS included.
        num_contextual: How many are contextual.
        assignment: (B, P), for every patch the row of `tokens` that holds it, -1 if none does; only on request.
    """

    tokens: Tensor
    positions: Tensor
    sizes: Tensor
    num_dominant: int
    num_contextual: int
    assignment: Tensor | None = None


def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Picks rows of each sample.

    Args:
        rows: (B, N, C).
        index: (B, K), int64.

    Returns:
        (B, K, C).
    """
    return torch.gather(rows, 1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))
