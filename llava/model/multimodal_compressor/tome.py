"""ToMe (Bolya et al., ICLR 2023, arXiv 2210.09461) at the encoder's end: similar patches become their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.greedy import Rule, full_precision
from llava.model.multimodal_compressor.registry import register_compressor
from llava.model.multimodal_compressor.types import CompressedTokens, VisionFeatures, gather_rows


@dataclass(frozen=True)
class ToMeOptions:
    """Options of ToMe.

    Attributes:
        rule: Both are the same: no patch is in two tokens.
    """

    rule: Rule = "reference"


class Groups(NamedTuple):
    """Groups of N rows, M in number.

    Attributes:
        keys: (B, M, d), fp32, sums over the groups, for only their direction counts.
        patch: (B, M), int64, the row that the others joined.
        group: (B, N), int64, for each row its group.
    """

    keys: Tensor
    patch: Tensor
    group: Tensor

    @classmethod
    def single(cls, keys: Tensor) -> Groups:
        """Every row by itself; keys (B, N, d)."""
        index = torch.arange(keys.shape[1], device=keys.device).expand(len(keys), -1)
        return cls(keys.detach().float(), index, index)


def schedule(num_rows: int, num_left: int, num_protected: int) -> list[int]:
    """How many rows each matching merges, at most half of those that may be merged.

    Args:
        num_rows: At the start, N.
        num_left: At the end.
        num_protected: 1 if the first row is never merged, else 0.
    """
    steps = []
    while num_rows > num_left:
        steps.append(min(num_rows - num_left, (num_rows - num_protected) // 2))
        num_rows -= steps[-1]
    return steps


def match(groups: Groups, count: int, is_protected: bool) -> Groups:
    """One bipartite matching: of the even groups those join an odd one that are most similar to it.

    Args:
        groups: M in number.
        count: How many join; at most half of M, the protected one apart.
        is_protected: Whether group 0 joins none.

    Returns:
        M - count groups: the even ones that are left, in order, then the odd ones.
    """
    unit = normalize(groups.keys, dim=-1)
    similarity = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    best, target = similarity.max(dim=2)  # (B, M / 2)
    if is_protected:
        best = pad(best[:, 1:], (1, 0), value=-torch.inf)
    order = best.argsort(dim=1, descending=True, stable=True)
    joining, left = order[:, :count], order[:, count:].sort(dim=1).values
    target, num_left = target.gather(1, joining), left.shape[1]
    even, odd = groups.keys[:, ::2], groups.keys[:, 1::2]
    where = target.unsqueeze(2).expand(-1, -1, odd.shape[2])
    keys = torch.cat([gather_rows(even, left), odd.scatter_add(1, where, gather_rows(even, joining))], dim=1)

    place = torch.arange(groups.patch.shape[1], device=left.device)
    new = torch.empty_like(groups.patch)  # for each of M groups its new one
    new[:, 1::2] = place[: new.shape[1] // 2] + num_left
    new_even = torch.empty_like(order).scatter_(1, left, place[:num_left].expand_as(left))
    new[:, ::2] = new_even.scatter_(1, joining, target + num_left)
    patch = torch.cat([groups.patch[:, ::2].gather(1, left), groups.patch[:, 1::2]], dim=1)
    return Groups(keys, patch, new.gather(1, groups.group))


def match_down_to(groups: Groups, num_left: int, is_protected: bool) -> Groups:
    """Matches again and again: all that may be merged is halved until so many groups are left.

    Args:
        groups: N in number.
        num_left: At the end, the protected one among them.
        is_protected: Whether group 0, a CLS token, joins none.
    """
    with full_precision(groups.keys.device):
        for count in schedule(groups.patch.shape[1], num_left, int(is_protected)):
            groups = match(groups, count, is_protected)
    return groups


def group_means(rows: Tensor, group: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """The means of groups, computed in fp32, and how many rows each has.

    Sums of sums are sums: rows are added once, at the end, where the public code adds them in each matching.

    Args:
        rows: (B, N, C).
        group: (B, N), int64, of each row.
        num_groups: M.

    Returns:
        (B, M, C), and (B, M), int64.
    """
    total = torch.zeros(len(rows), num_groups, rows.shape[2], dtype=torch.float32, device=rows.device)
    total = total.scatter_add(1, group.unsqueeze(2).expand_as(rows), rows.float())
    sizes = torch.zeros(len(rows), num_groups, dtype=torch.int64, device=rows.device)
    sizes = sizes.scatter_add(1, group, torch.ones_like(group))
    return (total / sizes.unsqueeze(2)).to(rows.dtype), sizes


@register_compressor(
    "tome",
    needs={"keys"},
    options=ToMeOptions,
    source="ICLR 2023, arXiv 2210.09461; the matching of facebookresearch/ToMe af95e4b, after the last layer",
)
def tome(features: VisionFeatures, budget: CompressionConfig, options: ToMeOptions) -> CompressedTokens:
    """Patches merged in pairs, again and again, into the mean of their groups."""
    assert features.keys is not None
    offset = int(features.saliency_has_cls)  # CLS counts as an even row, joins none, and is not kept
    groups = match_down_to(Groups.single(features.keys), budget.num_tokens + offset, bool(offset))
    positions, assignment = groups.patch[:, offset:] - offset, groups.group[:, offset:] - offset
    tokens, sizes = group_means(features.patches, assignment, budget.num_tokens)
    return CompressedTokens(tokens, positions, sizes, budget.num_tokens, 0, assignment)
