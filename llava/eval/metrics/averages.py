"""Means, overall and by group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Value = TypeVar("Value")


def some(values: Iterable[Value]) -> list[Value]:
    """The values in a list: answers that a score is to be of.

    Raises:
        ValueError: There is none, and a score of nothing would read as 0 %.
    """
    listed = list(values)
    if not listed:
        raise ValueError("there is no question to score")
    return listed


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
