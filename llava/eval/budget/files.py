"""The ladder and the advice as Markdown and as JSON."""

from __future__ import annotations

from typing import Any

from llava.eval.budget.advice import Advice, Wish, shown
from llava.eval.budget.halves import Ladder, Rung
from llava.eval.compare.files import NOTHING, adaptive_costs
from llava.eval.compare.table import Comparison, Figure
from llava.eval.report.settings import settings_lines
from llava.eval.whole_files import markdown_table
from llava.results.words import counted, tokens_text


def to_markdown(comparison: Comparison, ladder: Ladder, wish: Wish, advice: Advice) -> str:
    """The table, smallest budgets last, and the advice below it."""
    table = comparison.table
    head = ["budget", "tokens", "ms to the first token", "keeps, all pictures", "half to choose on", "other half"]
    if wish.keep is not None:
        head.append(f"both hold {100 * wish.keep:g} %")
    rows = [_row(rung, wish) for rung in _ordered(ladder)]
    tasks = [column.heading for column in table.columns]
    about = (
        f"Retention: percent of the score with all tokens, the mean over {counted(len(tasks), 'task')} "
        f"({', '.join(tasks)}); in brackets 95 % intervals of a paired bootstrap over pictures. The halves have "
        f"{ladder.pictures[0]} and {ladder.pictures[1]} pictures; all tokens get something right on "
        f"{ladder.telling[0]} and {ladder.telling[1]} of them."
    )
    refused = [f"left out: {pair.method} at {pair.tokens}: {pair.reason}" for pair in comparison.refused]
    notes = list(dict.fromkeys([*settings_lines(table), *comparison.notes, *table.notes, *refused]))
    blocks = ["# Which budget to take", about, markdown_table([head, *rows]), _timing(comparison), "## Advice"]
    blocks += ["\n".join(f"- {line}" for line in advice.lines)]
    if notes:
        blocks += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(blocks) + "\n"


def to_json(comparison: Comparison, ladder: Ladder, wish: Wish, advice: Advice) -> dict[str, Any]:
    """The same; `compression` is what `--compression @FILE` of other commands reads, null where nothing is advised."""
    return {
        "compression": None if advice.rung is None else advice.rung.name,
        "advice": list(advice.lines),
        "keep": wish.keep,
        "ms": wish.milliseconds,
        "chosen": None if advice.chosen is None else advice.chosen.name,
        "confirmed": advice.confirmed,
        "tasks": [column.task for column in comparison.table.columns],
        "pictures": {"chosen_on": ladder.pictures[0], "confirmed_on": ladder.pictures[1]},
        "right_with_all_tokens": {"chosen_on": ladder.telling[0], "confirmed_on": ladder.telling[1]},
        "timing": comparison.timing,
        "budgets": [
            {
                "compression": rung.name,
                "tokens": rung.tokens,
                "first_token_ms": rung.milliseconds,
                "retention": _figure(rung.whole),
                "chosen_on": _figure(rung.chosen_on),
                "confirmed_on": _figure(rung.confirmed_on),
            }
            for rung in _ordered(ladder)
        ],
    }


def _ordered(ladder: Ladder) -> list[Rung]:
    """All tokens first, then from many tokens to few."""
    return sorted(ladder.rungs, key=lambda rung: (rung.entry.budget is not None, -rung.tokens, -rung.whole.value))


def _row(rung: Rung, wish: Wish) -> list[str]:
    time = NOTHING if rung.milliseconds is None else f"{rung.milliseconds:.1f}"
    if wish.milliseconds is not None and rung.milliseconds is not None and rung.milliseconds > wish.milliseconds:
        time += " (too slow)"
    figures = [rung.whole, rung.chosen_on, rung.confirmed_on]
    cells = [rung.name, tokens_text(rung.tokens), time, *map(shown, figures)]
    if wish.keep is not None:
        lows = [figure.low for figure in figures[1:]]
        cells.append("yes" if all(low is not None and low >= 100 * wish.keep for low in lows) else "no")
    return cells


def _timing(comparison: Comparison) -> str:
    timing = comparison.timing
    if timing is None:
        return "Milliseconds were not measured in one run."
    return (
        f"Milliseconds: medians of {timing['repeats']} turns, the budgets in turn, on one question of {timing['task']} "
        f"at batch 1, on {timing['device']}, {timing['dtype']}.{adaptive_costs(timing)}"
    )


def _figure(figure: Figure) -> dict[str, float | None]:
    return {"value": figure.value, "low": figure.low, "high": figure.high}
