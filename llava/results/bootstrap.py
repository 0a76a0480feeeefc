"""How sure a difference of two scores over the same questions is: percentile intervals of the bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHUNK = 256
_RULE_OF_THREE = 3  # of n groups without a loss the true share of losses is below 3 / n, at 95 %


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a minus b over the same questions, and a percentile interval of it.

    Attributes:
        difference: mean(a) - mean(b).
        low: Lower end of the interval.
        high: Upper end.
        n: Questions that both have.
        confidence: Of the interval, between 0 and 1.
    """

    difference: float
    low: float
    high: float
    n: int
    confidence: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    a: Mapping[str, float],
    b: Mapping[str, float],
    *,
    groups: Mapping[str, str] | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Draws questions with replacement, the same for both sides, and takes the percentiles of the difference.

    Args:
        a: What each question earned on one side, by id.
        b: The same on the other side; only questions that both have count.
        groups: What each question belongs to, such as the image that it is about. Questions of one group are drawn
            together, for they are not independent; by default each question stands alone.
        resamples: How often to draw.
        confidence: Of the interval.
        seed: Of the draws.

    Raises:
        ValueError: The sides share no question, or one of them has no group.
    """
    shared = sorted(set(a) & set(b))
    if not shared:
        raise ValueError("the two sides have no question in common")
    if groups is not None and (missing := [key for key in shared if key not in groups]):
        raise ValueError(f"question {missing[0]!r} has no group")
    differences = np.array([a[key] - b[key] for key in shared])
    _, member = np.unique([groups[key] if groups else key for key in shared], return_inverse=True)
    sums, sizes = np.bincount(member, differences), np.bincount(member)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        drawn = generator.integers(0, len(sums), size=(count, len(sums)))
        means[start : start + count] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return PairedDifference(float(differences.mean()), float(low), float(high), len(shared), confidence)


def fewest_groups(share: float) -> int:
    """How many groups it takes to tell that a share is kept, were not one worse: on fewer, more could be lost in truth.

    A bootstrap of groups without one loss has an interval without width, however few they are.

    Args:
        share: Between 0 and 1; of 1 itself no number is enough.

    Raises:
        ValueError: It is outside.
    """
    if not 0 <= share < 1:
        raise ValueError(f"a share of {share} cannot be told from groups")
    return math.ceil(_RULE_OF_THREE / (1 - share) - 1e-9)


def bootstrap_interval(
    parts: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Draws groups of questions with replacement, and takes the percentiles of a statistic of their sums.

    F1 or a ratio of two means is not a mean of what questions earn, but each follows from sums over the questions. To
    compare two sides pairwise, put both sides' sums side by side in `parts`.

    Args:
        parts: (G, V), a row a group: V quantities, summed over its questions.
        statistic: Maps sums (R, V) over R draws to R values; those that are not finite are left out.
        resamples: How often to draw.
        confidence: Of the interval.
        seed: Of the draws.

    Returns:
        The interval's ends; not a number where no draw has a value.
    """
    sums = resampled_sums(parts, resamples=resamples, seed=seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.asarray(statistic(sums), dtype=np.float64)
    return percentile_interval(values, confidence)


def resampled_sums(parts: NDArray[np.float64], *, resamples: int, seed: int = 0) -> NDArray[np.float64]:
    """Sums (R, V) over R draws of groups with replacement; all V quantities see the same draws.

    Args:
        parts: (G, V), a row a group.
        resamples: R.
        seed: Of the draws.
    """
    generator = np.random.default_rng(seed)
    count = len(parts)
    sums = np.empty((resamples, parts.shape[1]))
    for number in range(resamples):
        weights = np.bincount(generator.integers(0, count, size=count), minlength=count)
        sums[number] = weights @ parts
    return sums


def percentile_interval(values: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """The percentiles of what draws gave, those that are not finite left out; not a number where none is."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    tail = 50 * (1 - confidence)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
