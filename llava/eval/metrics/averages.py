"""Means, overall and by group."""

from __future__ import annotations

from collections.abc import Iterable


def mean(values: Iterable[float]) -> float:
    """The mean; 0 of nothing."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def mean_by_group(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The mean of each group, groups sorted by name.

    Args:
        values: (group, value) pairs.
    """
    groups: dict[str, list[float]] = {}
    for group, value in values:
        groups.setdefault(group, []).append(value)
    return {group: mean(groups[group]) for group in sorted(groups)}
