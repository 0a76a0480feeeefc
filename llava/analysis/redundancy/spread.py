"""How attention is spread over patches, as numbers. Shares: (n, P), each of n tiles sums to 1 over its P patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shares = NDArray[np.float32]

EDGES = 2.0 ** np.arange(-10, 8.01, 0.5)
"""Of the histogram: attention of a patch over that of an even spread, 1 / P."""

_CURVE_POINTS = 100
_HALF, _NEARLY_ALL = 0.5, 0.9


@dataclass(frozen=True)
class Distribution:
    """A figure over the images of a set.

    Attributes:
        mean: Its mean.
        p5: The 5th percentile.
        p95: The 95th percentile.
    """

    mean: float
    p5: float
    p95: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> Distribution:
        """Of (n,) values."""
        low, high = np.percentile(values, [5, 95])
        return cls(float(values.mean()), float(low), float(high))


@dataclass(frozen=True)
class Spread:
    """How attention is spread over the patches of a set of tiles.

    Attributes:
        patches: P.
        tiles: n.
        edges: (E + 1,), of the histogram, in multiples of an even spread; the outermost bins take what lies beyond.
        share_of_patches: (E,), the patches in each bin.
        share_of_attention: (E,), the attention that they hold.
        top: k -> the share of the attention that the k most attended patches of a tile hold.
        entropy: Of a tile's shares, in nats.
        effective_patches: exp(entropy): an even spread over as many patches would have the same entropy.
        for_half: How many patches hold half of the attention.
        for_nearly_all: How many hold 90 %.
    """

    patches: int
    tiles: int
    edges: tuple[float, ...]
    share_of_patches: tuple[float, ...]
    share_of_attention: tuple[float, ...]
    top: Mapping[int, Distribution]
    entropy: Distribution
    effective_patches: Distribution
    for_half: Distribution
    for_nearly_all: Distribution


def spread_of(shares: Shares) -> Spread:
    """Measures how (n, P) shares are spread."""
    tiles, patches = shares.shape
    exact: NDArray[np.float64] = shares.astype(np.float64)
    relative = np.clip(exact * patches, EDGES[0], EDGES[-1])
    counts, _ = np.histogram(relative, EDGES)
    held, _ = np.histogram(relative, EDGES, weights=exact)
    descending = np.cumsum(-np.sort(-exact, axis=1), axis=1)  # (n, P): held by the first k
    entropy = -(exact * np.log(np.maximum(exact, np.finfo(np.float64).tiny))).sum(axis=1)
    return Spread(
        patches=patches,
        tiles=tiles,
        edges=tuple(EDGES.tolist()),
        share_of_patches=tuple((counts / shares.size).tolist()),
        share_of_attention=tuple((held / tiles).tolist()),
        top={k: Distribution.of(descending[:, k - 1]) for k in _curve(patches)},
        entropy=Distribution.of(entropy),
        effective_patches=Distribution.of(np.exp(entropy)),
        for_half=Distribution.of(_needed(descending, _HALF)),
        for_nearly_all=Distribution.of(_needed(descending, _NEARLY_ALL)),
    )


def _curve(patches: int) -> list[int]:
    """Numbers of patches from one to all, close together where they are few."""
    places = np.unique(np.round(np.geomspace(1, patches, _CURVE_POINTS)).astype(int))
    even = np.round(np.linspace(1, patches, _CURVE_POINTS)).astype(int)
    return sorted({*places.tolist(), *even.tolist()})


def _needed(descending: NDArray[np.float64], share: float) -> NDArray[np.int64]:
    """(n,): the fewest patches that hold a share."""
    return 1 + (descending < share - 1e-9).sum(axis=1)
