"""The VisionZip paper's benchmark tables, to be put beside what is measured here.

`paper_tables.json` holds the figures as the paper prints them (arXiv 2412.04467), misprints included: where a printed
average is not the mean of its row, `PaperTable.average` gives the mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

FILE_NAME = "paper_tables.json"
VANILLA = "Vanilla"


@dataclass(frozen=True)
class PaperRow:
    """A row of a table.

    Attributes:
        tokens: Visual tokens an image.
        method: The method's name; `VisionZip_ft` is VisionZip with its projector tuned.
        average: The printed average, in percent of vanilla.
        scores: Figures by column.
    """

    tokens: int
    method: str
    average: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class PaperTable:
    """A table of scores.

    Attributes:
        name: `table1`, `table2`...
        model: The model that it is about.
        caption: What sets it apart.
        average_over: The columns that its average counts.
        rows: Its rows, in the paper's order.
    """

    name: str
    model: str
    caption: str
    average_over: tuple[str, ...]
    rows: tuple[PaperRow, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, in the paper's order."""
        return tuple(self.rows[0].scores)

    @property
    def vanilla(self) -> PaperRow | None:
        """The model without compression, where the table has it."""
        return next((row for row in self.rows if row.method.startswith(VANILLA)), None)

    def row(self, method: str, tokens: int) -> PaperRow:
        """The row of a method at a budget.

        Raises:
            KeyError: There is none.
        """
        for row in self.rows:
            if (row.method, row.tokens) == (method, tokens):
                return row
        known = ", ".join(f"{row.method} {row.tokens}" for row in self.rows)
        raise KeyError(f"{self.name} has no row {method!r} with {tokens} tokens; it has {known}")

    def retention(self, row: PaperRow, vanilla: PaperRow | None = None) -> dict[str, float]:
        """What a row keeps of vanilla, in percent, by column.

        Args:
            row: A row of the table.
            vanilla: What to compare with; by default the table's own vanilla row.

        Raises:
            ValueError: There is nothing to compare with.
        """
        vanilla = vanilla or self.vanilla
        if vanilla is None:
            raise ValueError(f"{self.name} has no vanilla row; name one of another table")
        return {name: 100 * row.scores[name] / vanilla.scores[name] for name in row.scores if name in vanilla.scores}

    def mean(self, row: PaperRow, columns: Sequence[str]) -> float | None:
        """Mean retention of a row over columns, in percent; None where the table lacks one of them, or vanilla."""
        return mean_over(self.retention(row), columns) if self.vanilla is not None else None

    def average(self, row: PaperRow, vanilla: PaperRow | None = None) -> float:
        """The mean retention over `average_over`, in percent.

        Raises:
            ValueError: There is nothing to compare with.
        """
        kept = self.retention(row, vanilla)
        return sum(kept[name] for name in self.average_over) / len(self.average_over)


def mean_over(kept: Mapping[str, float], columns: Sequence[str]) -> float | None:
    """Mean retention over columns, in percent; None if there are none, or one of them has no retention."""
    values = [kept[name] for name in columns if name in kept]
    return sum(values) / len(values) if values and len(values) == len(columns) else None


@cache
def paper_columns() -> tuple[str, ...]:
    """The columns of all tables, in the paper's order. Which task a column is, the task says."""
    return tuple(_content()["columns"])


@cache
def paper_tables() -> Mapping[str, PaperTable]:
    """All tables of scores, by name."""
    return {
        name: PaperTable(
            name=name,
            model=table["model"],
            caption=table["caption"],
            average_over=tuple(table["average_over"]),
            rows=tuple(PaperRow(**row) for row in table["rows"]),
        )
        for name, table in _content()["tables"].items()
    }


@cache
def _content() -> dict[str, Any]:
    text = resources.files("llava.results").joinpath(FILE_NAME).read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]
