"""The paper's figures: complete, readable, and their averages what they are said to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llava.eval.report.command import main as report
from llava.eval.tasks import TASKS
from llava.results.paper import paper_columns, paper_tables
from llava.results.task_facts import facts_of

# Printed averages that are not the mean of their row, (table, method, tokens): the paper's own slips.
MISPRINTS = {("table1", "FastV", 128), ("table12", "VisionZip", 160), ("table13", "VisionZip", 640)}


def test_tables_are_there_and_every_column_is_one_of_our_scores() -> None:
    tables = paper_tables()
    assert {"table1", "table2", "table10", "table12"} <= set(tables)
    for table in tables.values():
        assert set(table.columns) <= set(paper_columns()), table.name
        assert all(set(row.scores) == set(table.columns) for row in table.rows), table.name


def test_every_column_is_one_task() -> None:
    assert sorted(task.paper_column for task in TASKS if task.paper_column) == sorted(paper_columns())


def test_rows_from_before_rows_had_facts_are_shown_as_then() -> None:
    # These tasks stood in lists of names, so that their old results can still be reported. Benchmarks beyond the
    # paper's (`in_means` is false) and lmms-eval's prompts came later: no row of theirs is without facts.
    later = [task.name for task in TASKS if not task.in_means or task.name.endswith("_lmms")]
    for task in TASKS:
        if not task.name.startswith("tiny_") and task.name not in later:
            assert facts_of({"task": task.name}) == task.facts(), task.name
    assert facts_of({"task": "of_ones_own"}).show(0.25) == "25.0 %"
    new = {"task": "gqa", "task_facts": {"scale": "points", "published_sizes": [5], "of_a_later_version": 1}}
    assert facts_of(new).show(0.25) == "0.2" and facts_of(new).published_sizes == (5,)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"published_sizes": None}, "task_facts.published_sizes is None, not a list of whole numbers"),
        ({"published_sizes": 5}, "task_facts.published_sizes is 5, not a list of whole numbers"),
        ({"published_sizes": ["5"]}, r"task_facts.published_sizes is \['5'\], not a list"),
        ({"needs_image": "no"}, "task_facts.needs_image is 'no', not true or false"),
        ({"paper_column": 1}, "task_facts.paper_column is 1, not a text"),
        ({"scale": "percent"}, "task_facts: scale 'percent' is neither 'share' nor 'points'"),
        (5, "task_facts is 5, not an object"),
    ],
)
def test_facts_that_are_malformed_are_named_with_their_file_and_row(facts: Any, reason: str, tmp_path: Path) -> None:
    good = {"task": "gqa", "n": 1, "compression": "none", "accuracy": 0.5}
    rows = [good, good | {"task": "mine", "task_facts": facts}]
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"run": {"model": "fp"}, "rows": rows}))
    with pytest.raises(SystemExit, match=rf"error: .*results\.json is not a results\.json \(row 1, mine: {reason}"):
        report([str(tmp_path)])


def test_figures_that_everyone_quotes() -> None:
    table = paper_tables()["table1"]
    vanilla = table.vanilla
    assert vanilla is not None and (vanilla.tokens, vanilla.scores["GQA"], vanilla.scores["MME"]) == (576, 61.9, 1862.0)
    row = table.row("VisionZip", 64)
    assert (row.scores["POPE"], row.average) == (77.0, 94.0)
    assert table.row("VisionZip_ft", 64).average == 95.2
    with pytest.raises(KeyError, match=r"table1 has no row 'VisionZip' with 65 tokens.*VisionZip 64"):
        table.row("VisionZip", 65)


@pytest.mark.parametrize("name", [name for name, table in paper_tables().items() if table.vanilla])
def test_printed_averages_are_the_mean_of_their_row(name: str) -> None:
    table = paper_tables()[name]
    for row in table.rows:
        off = abs(table.average(row) - row.average)
        assert (off > 0.15) == ((name, row.method, row.tokens) in MISPRINTS), (row.method, row.tokens, off)


def test_a_table_without_vanilla_asks_for_one() -> None:
    tables = paper_tables()
    table = tables["table15"]
    with pytest.raises(ValueError, match="table15 has no vanilla row"):
        table.average(table.rows[0])
    assert table.average(table.rows[0], tables["table2"].vanilla) == pytest.approx(table.rows[0].average, abs=0.15)
