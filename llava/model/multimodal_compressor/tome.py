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


class Rows(NamedTuple):
    """Groups of patches, M in number.

    Attributes:
        total: (B, M, C), fp32, sums over the groups.
        keys: (B, M, d), fp32, sums too, for only their direction counts.
        sizes: (B, M, 1), fp32.
        patch: (B, M), int64, the row of the input that the others joined.
        group: (B, N), int64, for each row of the input its group.
    """

    total: Tensor
    keys: Tensor
    sizes: Tensor
    patch: Tensor
    group: Tensor

    @classmethod
    def single(cls, rows: Tensor, keys: Tensor) -> Rows:
        """Every row (B, N, C) with its key (B, N, d) by itself."""
        index = torch.arange(rows.shape[1], device=rows.device).expand(len(rows), -1)
        sizes = torch.ones(*index.shape, 1, dtype=torch.float32, device=rows.device)
        return cls(rows.float(), keys.detach().float(), sizes, index, index)


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


def match(rows: Rows, count: int, is_protected: bool) -> Rows:
    """One bipartite matching: of the even rows those join an odd one that are most similar to it.

    Args:
        rows: M groups.
        count: How many join; at most half of M, the protected row apart.
        is_protected: Whether row 0 joins none.

    Returns:
        M - count groups: the even rows that are left, in order, then the odd rows.
    """
    unit = normalize(rows.keys, dim=-1)
    similarity = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    best, target = similarity.max(dim=2)  # (B, M / 2)
    if is_protected:
        best = pad(best[:, 1:], (1, 0), value=-torch.inf)
    order = best.argsort(dim=1, descending=True, stable=True)
    joining, left = order[:, :count], order[:, count:].sort(dim=1).values
    target = target.gather(1, joining)
    num_left = left.shape[1]

    def merged(values: Tensor) -> Tensor:
        even, odd = values[:, ::2], values[:, 1::2]
        where = target.unsqueeze(2).expand(-1, -1, values.shape[2])
        return torch.cat([gather_rows(even, left), odd.scatter_add(1, where, gather_rows(even, joining))], dim=1)

    place = torch.arange(rows.patch.shape[1], device=left.device)
    new = torch.empty_like(rows.patch)  # for each of M rows its new one
    new[:, 1::2] = place[: new.shape[1] // 2] + num_left
    even = torch.empty_like(order).scatter_(1, left, place[:num_left].expand_as(left))
    new[:, ::2] = even.scatter_(1, joining, target + num_left)
    patch = torch.cat([rows.patch[:, ::2].gather(1, left), rows.patch[:, 1::2]], dim=1)
    return Rows(merged(rows.total), merged(rows.keys), merged(rows.sizes), patch, new.gather(1, rows.group))


def merge_to(rows: Rows, num_left: int, is_protected: bool) -> Rows:
    """Matches again and again: all that may be merged is halved until so many rows are left.

    Args:
        rows: N groups.
        num_left: Rows at the end, the protected one among them.
        is_protected: Whether row 0, a CLS token, joins none.
    """
    with full_precision(rows.total.device):
        for count in schedule(rows.patch.shape[1], num_left, int(is_protected)):
            rows = match(rows, count, is_protected)
    return rows


@register_compressor(
    "tome",
    needs={"keys"},
    options=ToMeOptions,
    source="ICLR 2023, arXiv 2210.09461; the matching of facebookresearch/ToMe af95e4b, after the last layer",
)
def tome(features: VisionFeatures, budget: CompressionConfig, options: ToMeOptions) -> CompressedTokens:
    """Patches merged in pairs, again and again, into the mean of their groups."""
    assert features.keys is not None
    offset = int(features.saliency_has_cls)
    patches = pad(features.patches, (0, 0, offset, 0))  # CLS counts as an even row, and is not kept
    rows = merge_to(Rows.single(patches, features.keys), budget.num_tokens + offset, bool(offset))
    tokens = (rows.total / rows.sizes)[:, offset:].to(features.content.dtype)
    sizes = rows.sizes[:, offset:, 0].long()
    positions, assignment = rows.patch[:, offset:] - offset, rows.group[:, offset:] - offset
    return CompressedTokens(tokens, positions, sizes, budget.num_tokens, 0, assignment)
