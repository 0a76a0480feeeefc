"""HoloV (NeurIPS 2025, arXiv 2510.02912): a budget for each run of patches, filled with the most attended ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.greedy import Rule
from llava.model.multimodal_compressor.registry import register_compressor
from llava.model.multimodal_compressor.types import CompressedTokens, TileShape, VisionFeatures, gather_rows


@dataclass(frozen=True)
class HoloVOptions:
    """Options of HoloV.

    Attributes:
        crops: Runs of consecutive patches that a tile is cut into; they are not squares.
        rule: reference: what a run's budget has beyond its patches is lost, and zero vectors fill up, or under
            positions=restore it goes to the other runs in turn; distinct: it goes to them by their scores.
    """

    crops: int = 16
    rule: Rule = "reference"

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise ValueError(f"crops must be at least 1, got {self.crops}")


class _Runs(NamedTuple):
    """A tile of N patches cut into G runs of at most m patches, the longer ones first.

    Attributes:
        patch: (G, m), int64, the patch at each place of a run; beyond its end any patch.
        there: (G, m), bool, whether there is one.
        size: (G,), int64.
    """

    patch: Tensor
    there: Tensor
    size: Tensor

    @classmethod
    def of(cls, num_patches: int, crops: int, device: torch.device) -> _Runs:
        run, longest = torch.arange(crops, device=device), -(-num_patches // crops)
        shortest, longer = divmod(num_patches, crops)
        size = shortest + (run < longer).long()
        place = torch.arange(longest, device=device)
        start = run * shortest + run.clamp(max=longer)
        patch = (start.unsqueeze(1) + place).clamp(max=num_patches - 1)
        return cls(patch, place < size.unsqueeze(1), size)


def select(saliency: Tensor, num_kept: int, options: HoloVOptions, *, in_turn: bool = False) -> Tensor:
    """Chooses K patches of each tile.

    The public code scores a run by the mean of 1000 a + 0.09 v mean(1000 a) / mean(v), with a the attention of its
    patches and v the variances of their cosines. In the mean v cancels: the score is 1090 mean(a), whatever v is. So no
    similarity is computed here.

    Args:
        saliency: (B, N); only proportions count.
        num_kept: K.
        options: See `HoloVOptions`.
        in_turn: Whether under `reference` what would be lost goes to the other runs, as RESTORE's copy of it does.

    Returns:
        (B, K), int64, run by run and inside by attention, or in raster order if all of the run is kept; -1 for a zero
        vector, at the end.
    """
    runs = _Runs.of(saliency.shape[1], options.crops, saliency.device)
    attention = saliency[:, runs.patch]  # (B, G, m)
    score = attention.float().masked_fill(~runs.there, 0.0).sum(dim=2) / runs.size  # (B, G)
    total = score.sum(dim=1, keepdim=True)
    share = torch.where(total > 0, score / total, 1 / options.crops) * num_kept
    budget = share.floor().long()  # (B, G)
    place = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # of each run among the scores
    budget += place < num_kept - budget.sum(dim=1, keepdim=True)
    if options.rule == "distinct" or in_turn:
        budget = _redistribute(budget, score, runs, in_turn=options.rule == "reference")
    ranked = attention.masked_fill(~runs.there, -torch.inf).argsort(dim=2, descending=True, stable=True)
    in_order = runs.patch.expand_as(ranked)
    listed = torch.where((budget >= runs.size).unsqueeze(2), in_order, in_order.gather(2, ranked))
    taken = _taken(budget, runs).flatten(1)
    first = taken.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :num_kept]
    return torch.where(taken.gather(1, first), listed.flatten(1).gather(1, first), -1)


def _taken(budget: Tensor, runs: _Runs) -> Tensor:
    """(B, G, m), bool: the first places of each run, as many as its budget (B, G) says and as there are."""
    return runs.there & (torch.arange(runs.there.shape[1], device=budget.device) < budget.unsqueeze(2))


def _redistribute(budget: Tensor, score: Tensor, runs: _Runs, *, in_turn: bool) -> Tensor:
    """Gives what runs cannot use to those with patches left, by their scores: the highest quotients score / n win.

    Args:
        budget: (B, G).
        score: (B, G), not negative.
        runs: Of the tile.
        in_turn: One each to all of these, the best first, then one more each.
    """
    lost = (budget - runs.size).clamp(min=0).sum(dim=1, keepdim=True)  # (B, 1)
    budget = torch.minimum(budget, runs.size)
    place = torch.arange(runs.there.shape[1], device=budget.device)
    is_open = runs.there & (place >= budget.unsqueeze(2))  # (B, G, m)
    if in_turn:
        rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        worth = -((place - budget.unsqueeze(2)) * len(runs.size) + rank.unsqueeze(2)).to(score.dtype)
    else:
        worth = score.unsqueeze(2) / (place + 1)
    worth = worth.masked_fill(~is_open, -torch.inf).flatten(1)
    order = worth.argsort(dim=1, descending=True, stable=True)  # among equals a run's places stay in order
    wins = torch.arange(order.shape[1], device=order.device) < lost
    won = torch.zeros_like(order).scatter_(1, order, wins.long())
    return budget + won.view_as(is_open).sum(dim=2)


def check(budget: CompressionConfig, tile: TileShape) -> None:
    """Refuses runs that are too short."""
    options = HoloVOptions(**budget.options)  # type: ignore[arg-type]
    least = 1 if options.rule == "distinct" else 2
    if tile.num_patches < least * options.crops:
        raise ValueError(
            f"compression {budget}: crops={options.crops} cuts {tile.num_patches} patches into runs of fewer than "
            f"{least}; use crops={tile.num_patches // least} or less" + (", or rule=distinct" if least > 1 else "")
        )


@register_compressor(
    "holov",
    needs={"saliency"},
    options=HoloVOptions,
    check=check,
    places=("projected", "pooled"),
    chooses=True,
    source="NeurIPS 2025, arXiv 2510.02912; obananas/HoloV 1d2e65e",
)
def holov(features: VisionFeatures, budget: CompressionConfig, options: HoloVOptions) -> CompressedTokens:
    """The most attended patches of each run; a zero vector has the position -1 and the size 0."""
    assert features.saliency is not None
    index = select(features.saliency, budget.num_tokens, options, in_turn=budget.restores)
    is_patch = index >= 0
    tokens = gather_rows(features.patches, index.clamp(min=0)).masked_fill(~is_patch.unsqueeze(2), 0.0)
    return CompressedTokens(tokens, index, is_patch.long(), index.shape[1], 0)
