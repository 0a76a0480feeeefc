"""A comparison as Markdown, CSV, LaTeX and SVG."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

from llava.eval.compare.files import tenths, to_csv, to_markdown
from llava.eval.compare.grid import Grid
from llava.eval.compare.latex import to_latex
from llava.eval.compare.picture import spread, to_svg
from llava.eval.compare.table import build_comparison
from llava.results.paper import paper_tables
from tests.eval.compare.conftest import (
    BUDGETS,
    GRID,
    compared,
    write_run,
)

# ----- Files -------------------------------------------------------------------


def test_quoted_figures_never_share_a_column_with_measured_ones(folder: Path, data: Path) -> None:
    comparison = build_comparison([folder], GRID, paper_tables()["table1"])
    measured, quoted = to_markdown(comparison).split("## Quoted from the paper")
    assert "SparseVLM" not in measured and "arXiv 2412.04467, LLaVA-1.5-7B" in quoted and "| 55.1 " in quoted
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    kinds = {row["kind"] for row in rows}
    assert kinds == {"measured", "quoted"}
    assert all(bool(row["quoted"]) == (row["kind"] == "quoted") for row in rows)
    assert all(not row["score"] and not row["retention"] for row in rows if row["kind"] == "quoted")
    latex = to_latex(comparison)
    assert latex.count(r"\begin{tabular}") == 2 and "% Quoted, not measured here: table1" in latex


def test_texts_are_defused_and_escaped(folder: Path, data: Path, tmp_path: Path) -> None:
    evil = write_run(tmp_path / "=a_b & <c>", data, ("none", "visionzip:54+10"))
    comparison = compared(evil, folder, data=data)
    cells = [cell for row in csv.reader(io.StringIO(to_csv(comparison))) for cell in row]
    assert not any(cell.startswith(("=", "+", "@")) for cell in cells)
    assert any(cell.startswith("'=a_b") for cell in cells)
    assert r"=a\_b \& \textless{}c\textgreater{} all tokens" in to_latex(comparison)
    svg = to_svg(comparison)
    assert "=a_b &amp; &lt;c&gt;" in svg and ElementTree.fromstring(svg) is not None


def test_what_is_not_answered_is_named_and_what_is_not_drawn_is_not_explained(folder: Path, data: Path) -> None:
    wider = Grid((64,), dict.fromkeys([*BUDGETS[1:], "scope:64"], 64), [], [])
    bare = to_markdown(build_comparison([folder], wider))
    assert "- of the grid, nothing is answered yet under: scope:64\n" in bare
    assert "Mean over 2 tasks" in bare and "In brackets" not in bare and "marks an interval" not in bare
    drawn = to_markdown(compared(folder, data=data, resamples=50))
    assert "nothing is answered yet" not in drawn and "In brackets" in drawn and "marks an interval" in drawn


def test_the_matrix_names_what_is_left_out_and_the_marks(folder: Path, data: Path) -> None:
    text = to_markdown(compared(folder, data=data))
    assert "- uniform at 600: it is too many" in text
    assert "| visionzip | yes " in text.split("## What the methods are")[1]
    assert "Medians of 11 turns, the budgets in turn, on one question of gqa at batch 1: d, f." in text
    assert tenths(-0.04, signed=True) == "+0.0" and tenths(-0.06, signed=True) == "-0.1"


def test_labels_of_the_picture_never_overlap(folder: Path, data: Path) -> None:
    comparison = compared(folder, data=data)
    entry = comparison.entries[1]
    for number in range(24):  # as many methods, all of them with the same points
        copy = type(entry)(**vars(entry) | {"method": f"method number {number}", "budget": None})
        comparison.entries.append(copy)
    root = ElementTree.fromstring(to_svg(comparison))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert width <= 420
    space = "{http://www.w3.org/2000/svg}"
    panels = root.findall(f"{space}g")
    assert len(panels) == 2
    for panel in panels:
        labels = [text for text in panel.iter(f"{space}text") if text.get("class") == "label"]
        assert len(labels) == 28
        heights = sorted(float(text.attrib["y"]) for text in labels)
        assert min(b - a for a, b in pairwise(heights)) >= 13.9
        assert all(float(t.attrib["x"]) + 6.1 * len(t[0].tail) <= width for t in labels) and heights[-1] <= height


def test_heights_are_spread_within_their_room() -> None:
    assert spread([10, 10, 10], 14, 0, 100) == [10, 24, 38]
    assert spread([95, 96, 97], 14, 0, 100) == [72, 86, 100]
    assert spread([50, 90], 14, 0, 100) == [50, 90]
    crowded = spread([50] * 5, 14, 0, 30)
    assert [b - a for a, b in pairwise(crowded)] == [14] * 4
