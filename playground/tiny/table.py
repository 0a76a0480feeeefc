"""The quickstart's table: the evaluation's report as rows, the leads that it adds, and how both are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava.eval.report.table import Cell, Line, Table

RIVALS = ("random", "uniform")
TUNED = "visionzip+tuned"

Row = dict[str, Any]
Earned = Mapping[tuple[Path, str], Mapping[str, float]]


def report_table(measured: Path, tuned: Sequence[Path], data: Path) -> Table:
    """The report of the evaluation's folders, as `python -m llava.eval.report MEASURED TUNED...` makes it.

    Args:
        measured: Output folder of the model.
        tuned: Those of tuned projectors; vanilla is the model's.
        data: Where the questions are.
    """
    from llava.eval.data_place import DataPlace
    from llava.eval.report.intervals import add_intervals
    from llava.eval.report.table import build_table

    table = build_table([measured, *tuned])
    for line in table.lines:
        method = TUNED if line.folder in tuned else line.cells["tiny_vqa"].row["method"]
        line.label = "vanilla" if method == "none" else f"{method}:{line.compression.partition(':')[2]}"
    add_intervals(table, DataPlace(data))
    return table


def rows_of(table: Table, earned: Earned, pictures: Mapping[str, str]) -> list[Row]:
    """A row a method and budget: tiny_vqa's figures and tiny_pope's beside them.

    VisionZip's rows have its leads over the rivals of as many tokens; the tuned ones what tuning gained.

    Args:
        table: What `report_table` made.
        earned: What each question of tiny_vqa earned, by folder and budget; of several seeds the mean.
        pictures: The picture of each question of tiny_vqa, by id.
    """
    lines = {(_method(line), int(line.tokens)): line for line in table.lines}
    own = {key: earned[line.folder, line.compression] for key, line in lines.items()}
    rows = []
    for (method, tokens), line in sorted(lines.items(), key=lambda item: (-item[0][1], item[0][0])):
        row = {"task": "tiny_vqa", "method": method, "tokens": tokens, **_figures(line)}
        if method == "visionzip":
            for rival in RIVALS:
                if (rival, tokens) in lines:
                    row[f"lead_over_{rival}"] = difference(own[method, tokens], own[rival, tokens], pictures)
        if method == TUNED and ("visionzip", tokens) in lines:
            row["gain_by_tuning"] = difference(own[method, tokens], own["visionzip", tokens], pictures)
            lost = (table.vanilla.cells["tiny_vqa"].score - lines["visionzip", tokens].cells["tiny_vqa"].score) / 100
            row["recovered"] = row["gain_by_tuning"]["difference"] / lost if lost > 0 else None
        rows.append(row)
    return rows


def _method(line: Line) -> str:
    return "none" if line.label == "vanilla" else line.label.partition(":")[0]


def _figures(line: Line) -> Row:
    cell = line.cells["tiny_vqa"]
    row: Row = {"accuracy": cell.score / 100, "retention": _share(cell.retention)}
    row |= {"retention_low": _share(cell.low), "retention_high": _share(cell.high)}
    row |= {"compression": line.compression, "n": cell.row["n"], "seeds": len(cell.rows)}
    row["accuracy_by_group"] = _mean_by_group(cell)
    if "tiny_pope" in line.cells:
        pope = line.cells["tiny_pope"].row
        row |= {"pope_accuracy": pope["accuracy"], "pope_f1": pope["f1"], "pope_n": pope["n"]}
    return row


def _share(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


def _mean_by_group(cell: Cell) -> dict[str, float]:
    by_seed = [row["accuracy_by_group"] for row in cell.rows]
    return {group: mean(groups[group] for groups in by_seed) for group in by_seed[0]}


def mean_earned(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What each question earned on average over the seeds."""
    return {key: mean(earned[key] for earned in seeds) for key in seeds[0]}


def difference(a: Mapping[str, float], b: Mapping[str, float], pictures: Mapping[str, str]) -> dict[str, float]:
    """Mean of a minus b, and its 95 % interval over the pictures."""
    from llava.results.bootstrap import paired_bootstrap

    found = paired_bootstrap(a, b, groups=pictures)
    return {"difference": found.difference, "low": found.low, "high": found.high}


def print_table(rows: Sequence[Row]) -> None:
    """The table, how sure the leads are, and what tuning brought back."""
    head = f"{'method':<16} {'tokens':>6} {'accuracy':>9} {'retention':>10} {'95 % interval':>16}"
    print(f"\n{head} {'vision ms':>10} {'prefill ms':>11}")
    for row in rows:
        retention = "-" if row["retention"] is None else f"{row['retention']:.1%}"
        ends = [row["retention_low"], row["retention_high"]]
        interval = "-" if None in ends else f"{ends[0]:.1%} to {ends[1]:.1%}"
        figures = f"{row['accuracy']:>9.1%} {retention:>10} {interval:>16}"
        print(f"{row['method']:<16} {row['tokens']:>6} {figures} {row['vision_ms']:>10.2f} {row['prefill_ms']:>11.2f}")
    print()
    for row in rows:
        for rival in RIVALS:
            if lead := row.get(f"lead_over_{rival}"):
                print(f"visionzip over {rival} at {row['tokens']} tokens: {told(lead)}")
    for row in rows:
        if gain := row.get("gain_by_tuning"):
            share = "" if row["recovered"] is None else f"; {row['recovered']:.0%} of the loss recovered"
            print(f"tuning at {row['tokens']} tokens: {told(gain)}{share}")


def told(found: Mapping[str, float]) -> str:
    """A difference and its interval, in words."""
    return f"{found['difference']:+.1%} (95 % interval {found['low']:+.1%} to {found['high']:+.1%})"
