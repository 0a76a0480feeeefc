"""VisPruner (Zhang et al., ICCV 2025, arXiv 2412.01818v2): the most attended patches, and diverse ones of the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.greedy import Rule, by_tile, cosine
from llava.model.multimodal_compressor.registry import register_compressor
from llava.model.multimodal_compressor.types import CompressedTokens, TileShape, VisionFeatures, keep_patches

_PER_ROUND = 8  # patches that a round drops at most


@dataclass(frozen=True)
class VisPrunerOptions:
    """Options of VisPruner.

    Attributes:
        important: The share of the kept patches that is chosen by attention; the others are chosen to be diverse.
        rule: reference: as released, which cannot halve an odd number of patches; distinct: any K, like reference
            where all halves are equal.
    """

    important: float = 0.5
    rule: Rule = "reference"

    def __post_init__(self) -> None:
        if not 0 <= self.important <= 1:
            raise ValueError(f"important must be in 0..1, got {self.important}")


def select(
    patches: Tensor, saliency: Tensor, num_kept: int, important: float = 0.5, rule: Rule = "reference"
) -> Tensor:
    """Chooses K patches of each tile.

    The first int(K * important) patches in the order of attention are kept. The rest, in that order, is thinned in
    rounds: it is dealt out to A (even places) and B (odd places), and the patches of A that are most similar to one of
    B are dropped; what is left of A, the most similar first, and B behind it are the next order.

    Args:
        patches: (B, N, C).
        saliency: (B, N).
        num_kept: K.
        important: Share of K.
        rule: See `VisPrunerOptions`.

    Returns:
        (B, K), int64, ascending.

    Raises:
        ValueError: The public code cannot keep K of N patches, and `rule` is `reference`.
    """
    order = saliency.argsort(dim=1, descending=True)  # (B, N)
    first = int(num_kept * important)
    rest, diverse = order[:, first:], num_kept - first
    if diverse == 0:
        return order[:, :first].sort(dim=1).values
    survivors = rounds(rest.shape[1], diverse, rule)
    if survivors:
        rest = thin(cosine(patches), rest, survivors)
    return torch.cat([order[:, :first], rest], dim=1).sort(dim=1).values


def thin(similarity: Tensor, order: Tensor, survivors: list[int]) -> Tensor:
    """What the rounds leave of an order.

    Args:
        similarity: (B, N, N).
        order: (B, R), of patches.
        survivors: Of A, in each round.
    """

    def work(similarity: Tensor, order: Tensor) -> Tensor:
        tile = torch.arange(len(order), device=order.device).view(-1, 1, 1)
        for count in survivors:
            a, b = order[:, ::2], order[:, 1::2]
            nearest = similarity[tile, a.unsqueeze(2), b.unsqueeze(1)].amax(dim=2)  # (B, R / 2)
            ranked = nearest.argsort(dim=1, descending=True)  # not stable: ties fall as in the public code
            order = torch.cat([a.gather(1, ranked[:, a.shape[1] - count :]), b], dim=1)
        return order

    return by_tile(work, similarity, order)


def rounds(num_left: int, num_kept: int, rule: Rule = "reference") -> list[int]:
    """How many patches of A outlive each round.

    The public code takes it that A and B are alike in number. Where they are not, or where a round would drop more than
    A has, it ends in an error, apart from a few small numbers at which two wrong shapes happen to fit.

    Args:
        num_left: Patches that are left over, R.
        num_kept: How many of them shall be left, at least 1.
        rule: With `distinct` a round drops what A has at most, and A may have one more than B.

    Raises:
        ValueError: As the public code would fail; only with `reference`.
    """
    survivors = []
    while num_left > num_kept:
        half, dropped = num_left // 2, min(_PER_ROUND, num_left - num_kept)
        in_a = num_left - half
        kept = max(in_a - dropped, 0)
        if rule == "reference":
            kept = _as_released(num_left, half, dropped, kept)
        survivors.append(kept)
        num_left = kept + half
    if num_left < num_kept:
        raise ValueError(f"the last round would leave {num_left} diverse patches for {num_kept}")
    return survivors


def _as_released(num_left: int, half: int, dropped: int, kept: int) -> int:
    """The survivors of A for a round of the public code, which expects `half - dropped` of them."""
    expected = half - dropped
    if expected < -1:
        raise ValueError(f"a round would drop {dropped} of {half} patches")
    expected = abs(expected)  # the public code reads -1 as 1
    if kept == expected or expected == 1:
        return kept
    if kept == 1:
        return expected
    raise ValueError(f"{num_left} patches cannot be halved")


def check(budget: CompressionConfig, tile: TileShape) -> None:
    """Refuses what the public code cannot compute."""
    options = VisPrunerOptions(**budget.options)  # type: ignore[arg-type]
    if options.rule == "distinct":
        return
    if budget.tiles != "equal":
        raise ValueError(
            f"compression {budget}: rule=reference cannot have every budget; use tiles=equal or rule=distinct"
        )
    first = int(budget.num_tokens * options.important)
    if first == budget.num_tokens:
        return
    try:
        rounds(tile.num_patches - first, budget.num_tokens - first)
    except ValueError as error:
        raise ValueError(
            f"compression {budget}: the public code fails, for {error}; use rule=distinct, or another budget"
        ) from error


@register_compressor(
    "vispruner",
    needs={"saliency"},
    options=VisPrunerOptions,
    check=check,
    chooses=True,
    source="ICCV 2025, arXiv 2412.01818v2; Theia-4869/VisPruner aefa01a",
)
def vispruner(features: VisionFeatures, budget: CompressionConfig, options: VisPrunerOptions) -> CompressedTokens:
    """Half of the patches by attention, half by diversity, in raster order."""
    assert features.saliency is not None
    kept = select(features.patches, features.saliency, budget.num_tokens, options.important, options.rule)
    return keep_patches(features, kept)
