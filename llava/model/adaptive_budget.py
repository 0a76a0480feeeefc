"""The part of a budget that lets a tile's picture say how many tokens it keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

AdaptiveRule = Literal["gain", "cover", "attention", "rank"]
ADAPTIVE_RULES: tuple[AdaptiveRule, ...] = get_args(AdaptiveRule)
_PARTS_OF_ONE = ("gain", "cover", "attention")


@dataclass(frozen=True)
class AdaptiveK:
    """How many tokens a tile keeps: by a rule, at least `floor`, and at most what the budget says.

    A lower threshold never keeps fewer, whatever the rule.

    Attributes:
        rule: `"gain"`: as long as one more token covers more than `threshold` of the tile. `"cover"`: until no more
            than `threshold` of the tile is left uncovered. `"attention"`: until no more than `threshold` of the
            attention is on patches that are not the most attended. `"rank"`: one token for each `threshold`
            dimensions of the effective rank of the patches.
        threshold: In 0..1, 1 excluded; of `"rank"` any number above 0.
        floor: The least that a tile keeps, 1 or more.
    """

    rule: AdaptiveRule
    threshold: float
    floor: int = 1

    def __post_init__(self) -> None:
        _check_rule(self.rule)
        for name, kinds, called in (("threshold", int | float, "a number"), ("floor", int, "a whole number")):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise TypeError(f"compression.{name} must be {called}, got {value!r}")
        object.__setattr__(self, "threshold", float(self.threshold))
        is_part = self.rule in _PARTS_OF_ONE
        if not (0 <= self.threshold < 1 if is_part else 0 < self.threshold < math.inf):
            allowed = "0 or more and below 1" if is_part else "above 0"
            raise ValueError(f"compression.threshold must be {allowed} with adaptive={self.rule}, got {self.threshold}")
        if self.floor < 1:
            raise ValueError(f"compression.floor must be at least 1, got {self.floor}")

    @classmethod
    def of_keys(cls, keys: Mapping[str, Any]) -> AdaptiveK:
        """Reads `adaptive`, `threshold` and `floor` of a budget's short form.

        Raises:
            TypeError: A value has another type.
            ValueError: A key is missing, or a value is out of range.
        """
        if "adaptive" in keys:
            _check_rule(keys["adaptive"])
        missing = [name for name in ("adaptive", "threshold") if name not in keys]
        if missing:
            raise ValueError(
                f"compression: {', '.join(keys)} without {', '.join(missing)}; write adaptive=gain,threshold=0.004 "
                "and, if a tile shall keep more than 1, floor=8"
            )
        return cls(keys["adaptive"], keys["threshold"], keys.get("floor", 1))

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> AdaptiveK:
        """Reads what `to_dict` of a budget wrote.

        Raises:
            ValueError: An entry is unknown, missing or out of range.
        """
        known = [entry.name for entry in fields(cls)]
        if not {"rule", "threshold"} <= set(entries) <= set(known):
            raise ValueError(f"compression.adaptive has {', '.join(map(str, entries))}; it has {', '.join(known)}")
        return cls(**entries)

    def to_keys(self) -> dict[str, Any]:
        """What the short form says."""
        entries = asdict(self)
        keys = {"adaptive": entries.pop("rule"), **entries}
        return keys if self.floor > 1 else {name: keys[name] for name in ("adaptive", "threshold")}


def _check_rule(rule: Any) -> None:
    if not isinstance(rule, str) or rule not in ADAPTIVE_RULES:
        raise ValueError(f"compression.adaptive must be one of {', '.join(ADAPTIVE_RULES)}, got {rule!r}")
