"""The VisionZip paper's benchmark tables, to be put beside what is measured here.

`paper_tables.json` holds the figures as the paper prints them (arXiv 2412.04467), misprints included: where a printed
average is not the mean of its row, `PaperTable.average` gives the mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

FILE_NAME = "paper_tables.json"
VANILLA = "Vanilla"


@dataclass(frozen=True)
class Column:
    """Which of our scores a column of the paper is.

    Attributes:
        task: Name of the task.
        score: Name of the score in the task's results.
        scale: What our score is multiplied by to be read beside the paper's figure.
    """

    task: str
    score: str
    scale: float = 100.0


COLUMNS: Mapping[str, Column] = {
    "GQA": Column("gqa", "accuracy"),
    "MMB": Column("mmbench", "circular_accuracy"),
    "MME": Column("mme", "total", 1.0),
    "POPE": Column("pope", "f1"),
    "SQA": Column("sqa_img", "accuracy"),
    "VQAv2": Column("vqav2_val", "accuracy"),  # the paper's is test-dev: compare retention only
    "TextVQA": Column("textvqa", "accuracy"),
    "MMMU": Column("mmmu_val", "accuracy"),
    "SEED": Column("seed", "accuracy"),
    "SEED-I": Column("seed_image", "accuracy"),
    "VizWiz": Column("vizwiz_val", "accuracy"),  # the paper's is test: compare retention only
    "MMVet": Column("mmvet", "score", 1.0),
    "LLaVA-B": Column("llava_bench", "score", 1.0),
}


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

    def average(self, row: PaperRow, vanilla: PaperRow | None = None) -> float:
        """The mean retention over `average_over`, in percent.

        Raises:
            ValueError: There is nothing to compare with.
        """
        kept = self.retention(row, vanilla)
        return sum(kept[name] for name in self.average_over) / len(self.average_over)


@cache
def paper_tables() -> Mapping[str, PaperTable]:
    """All tables of scores, by name."""
    content = json.loads(resources.files("llava.results").joinpath(FILE_NAME).read_text(encoding="utf-8"))
    return {
        name: PaperTable(
            name=name,
            model=table["model"],
            caption=table["caption"],
            average_over=tuple(table["average_over"]),
            rows=tuple(PaperRow(**row) for row in table["rows"]),
        )
        for name, table in content["tables"].items()
    }
