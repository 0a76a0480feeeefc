"""Tiles that keep different numbers of tokens: those that keep as many are compressed together.

Shapes: T tiles, K tokens of the tile that has most, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from llava.model.multimodal_compressor.types import CompressedTokens


@dataclass(frozen=True)
class UnevenTiles:
    """The tokens of T tiles that keep different numbers.

    Attributes:
        tokens: (T, K, C), a tile's own first; what follows them means nothing.
        positions: (T, K), as in `CompressedTokens`, likewise.
        sizes: (T, K), as in `CompressedTokens`, likewise.
        splits: How many dominant and contextual tokens each tile has.
    """

    tokens: Tensor
    positions: Tensor
    sizes: Tensor
    splits: tuple[tuple[int, int], ...]

    def as_even(self) -> CompressedTokens:
        """The same with empty tokens behind each tile's dominant and behind its contextual ones."""
        most = [max(split[part] for split in self.splits) for part in range(2)]
        tiles = []
        for tile, (dominant, contextual) in enumerate(self.splits):
            found = []
            for start, count, width in ((0, dominant, most[0]), (dominant, contextual, most[1])):
                own, short = slice(start, start + count), width - count
                found += [
                    pad(self.tokens[tile, own], (0, 0, 0, short)),
                    pad(self.positions[tile, own], (0, short), value=-1),
                    pad(self.sizes[tile, own], (0, short)),
                ]
            tiles.append([torch.cat(parts) for parts in zip(found[:3], found[3:], strict=True)])
        tokens, positions, sizes = (torch.stack(parts) for parts in zip(*tiles, strict=True))
        return CompressedTokens(tokens, positions, sizes, num_dominant=most[0], num_contextual=most[1])


@dataclass(frozen=True)
class KeptGroup:
    """Some tiles that keep as many tokens.

    Attributes:
        members: Which tiles they are.
        index: The same as (n,), int64, where the tokens are.
        kept: Of these tiles.
    """

    members: Sequence[int]
    index: Tensor
    kept: CompressedTokens


def join_groups(groups: Sequence[KeptGroup]) -> UnevenTiles:
    """Puts tiles back into their order.

    Args:
        groups: Each of the T tiles is in one of them.
    """
    longest = max(group.kept.tokens.shape[1] for group in groups)
    splits = {tile: (group.kept.num_dominant, group.kept.num_contextual) for group in groups for tile in group.members}
    place = torch.cat([group.index for group in groups]).argsort()
    parts: list[list[Tensor]] = [[], [], []]
    for group in groups:
        kept, more = group.kept, longest - group.kept.tokens.shape[1]
        parts[0].append(pad(kept.tokens, (0, 0, 0, more)))
        parts[1].append(pad(kept.positions, (0, more)))
        parts[2].append(pad(kept.sizes, (0, more)))
    tokens, positions, sizes = (torch.cat(part).index_select(0, place) for part in parts)
    return UnevenTiles(tokens, positions, sizes, tuple(splits[tile] for tile in range(len(splits))))
