"""What a benchmark found, as JSON: the one form that `docs/performance.md` is made from."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import machine

Cell = str | int | float | None


@dataclass(frozen=True)
class Goal:
    """A figure to reach.

    Attributes:
        name: What it is of, in words.
        reached: The figure; None where it was not measured.
        at_least: The goal, if more is better.
        at_most: The goal, if less is better.
        note: Why it was missed or not measured, in a sentence.
    """

    name: str
    reached: float | None
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Refuses a goal without a direction.

        Raises:
            ValueError: Not exactly one of the two bounds is given.
        """
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"{self.name}: give exactly one of at_least and at_most")

    @property
    def is_met(self) -> bool | None:
        """Whether it was reached; None where it was not measured."""
        if self.reached is None:
            return None
        return self.reached >= self.at_least if self.at_least is not None else self.reached <= (self.at_most or 0)

    def to_dict(self) -> dict[str, Any]:
        """For the JSON file."""
        bound = {"at_most": self.at_most} if self.at_least is None else {"at_least": self.at_least}
        return {"name": self.name, "reached": self.reached, **bound, "met": self.is_met, "note": self.note}


@dataclass(frozen=True)
class Report:
    """Everything that one run of a benchmark tells.

    Attributes:
        benchmark: The script's name without `.py`.
        title: A line for a reader.
        device: What it ran on.
        setting: What was measured: model, dtype, batch...
        rows: A table; every row has the same columns, in order.
        ratios: Figures by name, for programs: `time_ratio_vs_reference`...
        goals: What was to be reached.
        notes: Sentences that explain the gap to the floor.
    """

    benchmark: str
    title: str
    device: torch.device
    setting: Mapping[str, Any]
    rows: Sequence[Mapping[str, Cell]]
    ratios: Mapping[str, float | None]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """For the JSON file; ratios stand at the top."""
        return {
            "benchmark": self.benchmark,
            "title": self.title,
            "command": " ".join(["python", f"benchmarks/{self.benchmark}.py", *_without_file(sys.argv[1:])]),
            "machine": machine(self.device),
            "setting": dict(self.setting),
            **self.ratios,
            "rows": [dict(row) for row in self.rows],
            "goals": [goal.to_dict() for goal in self.goals],
            "notes": list(self.notes),
        }

    def tell(self, file: Path | None) -> None:
        """Prints the report as Markdown, and writes it where asked."""
        told = self.to_dict()
        print(f"{self.title}\n{told['setting']} on {told['machine']}\n\n{markdown(told)}")
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def markdown(told: Mapping[str, Any]) -> str:
    """The tables of a report as it stands in JSON."""
    goals = table([_goal_row(goal) for goal in told["goals"]])
    notes = "\n".join(f"- {note}" for note in told["notes"])
    return "\n\n".join(part for part in (table(told["rows"]), goals, notes) if part) + "\n"


def table(rows: Sequence[Mapping[str, Cell]]) -> str:
    """Rows of the same columns; a column that is empty everywhere is left out."""
    if not rows:
        return ""
    columns = [column for column in rows[0] if any(row[column] is not None for row in rows)]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def bound(goal: Mapping[str, Any]) -> str:
    """What a goal in JSON asks for."""
    return f"at least {goal['at_least']:g}" if "at_least" in goal else f"at most {goal['at_most']:g}"


def _goal_row(goal: Mapping[str, Any]) -> dict[str, Cell]:
    met = {True: "yes", False: "no", None: "not measured"}[goal["met"]]
    return {"goal": goal["name"], "asked": bound(goal), "reached": goal["reached"], "met": met, "note": goal["note"]}


def cell(value: Cell) -> str:
    """A figure as tables show it, to three digits."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def _without_file(arguments: Sequence[str]) -> list[str]:
    """The command line without `--json FILE`, which says nothing of what was measured."""
    if "--json" not in arguments:
        return list(arguments)
    place = arguments.index("--json")
    return [*arguments[:place], *arguments[place + 2 :]]
