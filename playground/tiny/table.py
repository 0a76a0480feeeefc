"""The quickstart's table: rows from what every question earned, how sure the leads are, and how it is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava.eval.runner import TaskResult

RIVALS = ("random", "uniform")
TUNED = "visionzip+tuned"

Row = dict[str, Any]
Results = dict[tuple[str, str, int, int], "TaskResult"]


def table(results: Results, pictures: Mapping[str, str]) -> list[Row]:
    """A row a method and budget: tiny_vqa's figures and tiny_pope's beside them.

    VisionZip's rows have its leads over the rivals of as many tokens; the tuned ones what tuning gained.

    Args:
        results: By (task, method, tokens, seed).
        pictures: The picture of each question of tiny_vqa, by id.
    """
    groups: dict[tuple[str, int], list[TaskResult]] = {}
    for task, method, tokens, seed in results:
        if task == "tiny_vqa":
            groups.setdefault((method, tokens), []).append(results[task, method, tokens, seed])
    earned = {key: mean_earned(group) for key, group in groups.items()}
    vanilla = next(mean(values.values()) for (method, _), values in earned.items() if method == "none")
    rows = []
    for (method, tokens), group in sorted(groups.items(), key=lambda item: (-item[0][1], item[0][0])):
        row: Row = {"task": "tiny_vqa", "method": method, "tokens": tokens}
        row["accuracy"] = mean(result.row["accuracy"] for result in group)
        row["retention"] = row["accuracy"] / vanilla if vanilla else None
        row |= {
            "compression": group[0].row["compression"],
            "n": group[0].row["n"],
            "seeds": len(group),
            "accuracy_by_group": group[0].row["accuracy_by_group"],
        }
        pope = results.get(("tiny_pope", method, tokens, 0))
        if pope is not None:
            row |= {"pope_accuracy": pope.row["accuracy"], "pope_f1": pope.row["f1"], "pope_n": pope.row["n"]}
        own = earned[method, tokens]
        if method == "visionzip":
            for rival in RIVALS:
                if (rival, tokens) in earned:
                    row[f"lead_over_{rival}"] = difference(own, earned[rival, tokens], pictures)
        if method == TUNED and ("visionzip", tokens) in earned:
            untuned = earned["visionzip", tokens]
            row["gain_by_tuning"] = difference(own, untuned, pictures)
            lost = vanilla - mean(untuned.values())
            row["recovered"] = row["gain_by_tuning"]["difference"] / lost if lost > 0 else None
        rows.append(row)
    return rows


def mean_earned(results: Sequence[TaskResult]) -> dict[str, float]:
    """What each question earned on average over the seeds."""
    return {key: mean(result.earned[key] for result in results) for key in results[0].earned}


def difference(a: Mapping[str, float], b: Mapping[str, float], pictures: Mapping[str, str]) -> dict[str, float]:
    """Mean of a minus b, and its 95 % interval over the pictures."""
    from llava.bootstrap import paired_bootstrap

    found = paired_bootstrap(a, b, groups=pictures)
    return {"difference": found.difference, "low": found.low, "high": found.high}


def print_table(rows: Sequence[Row]) -> None:
    """The table, how sure the leads are, and what tuning brought back."""
    print(f"\n{'method':<16} {'tokens':>6} {'accuracy':>9} {'retention':>10} {'vision ms':>10} {'prefill ms':>11}")
    for row in rows:
        retention = "-" if row["retention"] is None else f"{row['retention']:.1%}"
        figures = f"{row['accuracy']:>9.1%} {retention:>10} {row['vision_ms']:>10.2f} {row['prefill_ms']:>11.2f}"
        print(f"{row['method']:<16} {row['tokens']:>6} {figures}")
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
