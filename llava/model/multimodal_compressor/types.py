"""What passes through the seam between the vision tower and the projector.

Shapes: B tiles, P patches, N = P + 1 with a CLS token (else N = P), C channels, d channels of a head, K kept tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Place = Literal["pixels", "tower", "projected", "pooled"]
"""Where a method stands: it shrinks the picture; it reads the tower's rows; the projector's; or those after pooling."""

PLACES: tuple[Place, ...] = ("pixels", "tower", "projected", "pooled")


@dataclass(frozen=True)
class TileShape:
    """What is known of a tile before it is encoded.

    Attributes:
        grid: (h, w), the patches' rows and columns.
        saliency_has_cls: Whether saliency is what a CLS token attends to; else it is what all patches attend to.
        keep_cls: Whether the rows begin with that CLS token, for methods that keep it.
        cls_counts: Whether a kept CLS token is one of the budget's tokens; else it comes on top.
        places: Where a method may stand in the model, the usual place first.
        projected_width: D, the channels of the projector's rows; None where they are not known.
    """

    grid: tuple[int, int]
    saliency_has_cls: bool
    keep_cls: bool
    cls_counts: bool = True
    places: tuple[Place, ...] = ("tower", "pixels", "projected")
    projected_width: int | None = None

    @property
    def num_patches(self) -> int:
        """P = h * w."""
        return self.grid[0] * self.grid[1]

    def with_cls(self, keep_cls: bool | None) -> TileShape:
        """The same where a budget says otherwise whether the rows begin with the CLS token; None says nothing."""
        return self if keep_cls is None else replace(self, keep_cls=keep_cls and self.saliency_has_cls)


@dataclass(frozen=True)
class QuestionEmbeds:
    """The words of the question about each tile's image, as the language model embeds them.

    Attributes:
        embeds: (B, T, D), padded on the right.
        mask: (B, T), bool, whether there is a token.
    """

    embeds: Tensor
    mask: Tensor


@dataclass(frozen=True)
class ClipJoint:
    """Patches and question in CLIP's joint space.

    Attributes:
        image: (B, P, E), of each patch.
        text: (B, M, E), of each part of the question, padded.
        mask: (B, M), bool, whether there is a part.
    """

    image: Tensor
    text: Tensor
    mask: Tensor


@dataclass(frozen=True)
class VisionFeatures:
    """What a compressor is told of B tiles: `content` is kept or merged, `source` says what is worth keeping.

    What follows
    `saliency_has_cls` is there only if asked for, by the name of the field.

    Attributes:
        content: (B, N, C), CLS first if `has_cls`: the tower's rows, or at the place `projected` the projector's.
        grid: (h, w), the patches' rows and columns; P = h * w.
        has_cls: Whether row 0 of `content` is a CLS token.
        source: (B, P, C'), the patches of the selected layer, from which keys and saliency come; at the place `tower`
            the patches of `content`.
        saliency_has_cls: Whether `saliency` is of a CLS token, which is then row 0 of `keys` and `last_layer_qk`.
        keys: (B, P or P + 1, d), keys of the selected layer, mean over the heads, fp32.
        saliency: (B, P), attention that a patch receives in the selected layer, fp32. With a CLS token it is CLS's,
            summed over the heads; else the mean over all queries and heads.
        digest: (B,), int64, a hash of the tile's pixels, the same in any batch.
        cls_attention: (B, H, P), the CLS token's attention in the selected layer, a head each, fp32.
        last_layer_qk: Queries and keys of the tower's last layer, (B, P or P + 1, C') each: heads not split, queries
            not scaled.
        projected: (B, P, D), the tower's patches as the model projects them, after the projector.
        image_index: (B,), int64, in 0..B-1: tiles of one image have the same, those of others another.
        padding: (B, P), bool, whether a patch lies wholly in the border that makes the picture square.
        question_embeds: The words of the question.
        clip_joint: Patches and question in CLIP's joint space.
        tile_grid: At the place `pixels`, the (h, w) of the patches that the tile has without being shrunk.
    """

    content: Tensor
    grid: tuple[int, int]
    has_cls: bool
    source: Tensor
    saliency_has_cls: bool
    keys: Tensor | None = None
    saliency: Tensor | None = None
    digest: Tensor | None = None
    cls_attention: Tensor | None = None
    last_layer_qk: tuple[Tensor, Tensor] | None = None
    projected: Tensor | None = None
    image_index: Tensor | None = None
    padding: Tensor | None = None
    question_embeds: QuestionEmbeds | None = None
    clip_joint: ClipJoint | None = None
    tile_grid: tuple[int, int] | None = None

    @property
    def patches(self) -> Tensor:
        """(B, P, C): `content` without the CLS token."""
        return self.content[:, 1:] if self.has_cls else self.content

    @property
    def attention_shares(self) -> Tensor:
        """(B, P), fp32: each patch's share of `saliency`."""
        assert self.saliency is not None
        saliency = self.saliency.detach().float()
        return saliency / saliency.sum(dim=1, keepdim=True).clamp(min=torch.finfo(saliency.dtype).tiny)


@dataclass(frozen=True)
class CompressedTokens:
    """K tokens for each of B tiles. K is known from the budget alone.

    Attributes:
        tokens: (B, K, C), dominant tokens first, in raster order (CLS before the patches), then the contextual ones.
        positions: (B, K), -1 for CLS or an empty token, a patch's index, or for a merged token that of its target.
        sizes: (B, K), 1, or for a merged token 1 + the number of tokens merged into it; 0 for an empty token, which is
            a zero vector.
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


def keep_patches(features: VisionFeatures, index: Tensor) -> CompressedTokens:
    """What a method returns that only chooses.

    Args:
        features: Of B tiles.
        index: (B, K), int64, the patches to keep, ascending.
    """
    tokens = gather_rows(features.patches, index)
    return CompressedTokens(tokens, index, torch.ones_like(index), index.shape[1], 0)
