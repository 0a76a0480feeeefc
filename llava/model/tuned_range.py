"""The budgets that weights were tuned under: one, or all from a least to a most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llava.model.configuration import CompressionConfig, as_compression

_TO = " to "


@dataclass(frozen=True)
class TunedRange:
    """Budgets of one method and its options, by their tokens.

    `config.json` has it as `compression_range`, beside the `compression` that a checkpoint is run with.

    Attributes:
        least: The budget with the fewest tokens.
        most: That with the most.
    """

    least: CompressionConfig
    most: CompressionConfig

    @classmethod
    def parse(cls, text: str) -> TunedRange:
        """Reads what `str` gives, or the short form of a single budget.

        Raises:
            ValueError: It is neither.
        """
        ends = [CompressionConfig.parse(part) for part in text.split(_TO)]
        if len(ends) > 2 or None in ends:
            raise ValueError(f"{text!r} is no budget, and no range of the form A{_TO}B")
        return cls(ends[0], ends[-1])  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, entries: Mapping[str, Any]) -> TunedRange | None:
        """Reads a config.json: its range, else its one budget; None without either.

        Raises:
            TypeError: An entry is no budget.
            ValueError: An entry is malformed.
        """
        found = entries.get("compression_range")
        if found is None:
            budget = as_compression(entries.get("compression"))
            return None if budget is None else cls(budget, budget)
        if not isinstance(found, Mapping) or set(found) != {"least", "most"}:
            raise ValueError(f"compression_range {found!r} must have least and most")
        least, most = as_compression(found["least"]), as_compression(found["most"])
        if least is None or most is None:
            raise ValueError(f"compression_range {found!r}: least and most must be budgets")
        return cls(least, most)

    def to_dict(self) -> dict[str, Any]:
        """The entry for config.json."""
        return {"least": self.least.to_dict(), "most": self.most.to_dict()}

    def holds(self, budget: CompressionConfig | None) -> bool:
        """Whether weights of this range were tuned for a budget, itself drawn or not; never for all tokens.

        For an adaptive one if they were for each number that a tile may have.
        """
        if budget is None or self.least == self.most:
            return budget == self.least
        fewest = budget.num_tokens if budget.adaptive is None else budget.adaptive.floor
        is_between = self.least.num_tokens <= fewest <= budget.num_tokens <= self.most.num_tokens
        return is_between and is_like(replace(budget, adaptive=None), self.least)

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}{_TO}{self.most}"


def is_like(budget: CompressionConfig, other: CompressionConfig) -> bool:
    """Whether two budgets differ in their tokens only."""
    return replace(budget, dominant=1, contextual=0) == replace(other, dominant=1, contextual=0)
