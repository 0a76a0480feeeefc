"""Makes `docs/performance.md` and its picture from what the benchmarks wrote.

python benchmarks/performance_page.py            # writes them
python benchmarks/performance_page.py --check    # fails where the page is not what the files give
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cost_picture import draw_costs
from report import Cell, bound, cell, markdown, table

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "performance.md"
PICTURE = "assets/cost_against_tokens.svg"

# In the order of an answer's way; what is not named here follows.
ORDER = (
    *("vision", "compressor", "cost", "prefill", "generate", "eval_throughput", "memory", "image_preparation"),
    *("video", "store", "serving"),
    *("startup", "loading", "train_throughput", "export_memory"),
)

# Machine -> its reports, as they stand in JSON.
Results = Mapping[str, Sequence[Mapping[str, Any]]]


def read_results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Reads `folder/<machine>/*.json`, in the order of the page.

    Raises:
        ValueError: A file is not what `Report.tell` writes.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("*/*.json")):
        told = json.loads(file.read_text(encoding="utf-8"))
        missing = {"benchmark", "title", "command", "machine", "setting", "rows", "goals", "notes"} - set(told)
        if missing:
            raise ValueError(f"{file} has no {', '.join(sorted(missing))}; make it again with the benchmark's --json")
        results.setdefault(file.parent.name, []).append(told)
    for reports in results.values():
        reports.sort(key=lambda told: _place(told["benchmark"]))
    return results


def goals_table(results: Results) -> str:
    """Every goal: what was asked, what each machine reached, why it was missed, and the command where it is open."""
    rows: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for machine, reports in results.items():
        for told in reports:
            for goal in told["goals"]:
                benchmark, asked = told["benchmark"], bound(goal)
                row: dict[str, Cell] = {"benchmark": f"`{benchmark}`", "goal": goal["name"], "asked": asked}
                row |= {**dict.fromkeys(results), "remark": ""}
                row = rows.setdefault((benchmark, goal["name"], asked), row)
                row[machine] = ", ".join(filter(None, [row[machine], _reached(goal)])) or None  # type: ignore[list-item]
                row["remark"] = row["remark"] or goal["note"]
    for (benchmark, _, _), row in rows.items():
        if all(row[machine] is None for machine in results):
            row["remark"] = _how_to_measure(benchmark, str(row["remark"]))
        row |= {machine: row[machine] or "not measured" for machine in results}
    return table([rows[key] for key in sorted(rows, key=lambda key: _place(key[0]))])


def section(benchmark: str, results: Results) -> str:
    """What a benchmark found, on every machine."""
    parts: list[str] = []
    for machine, reports in results.items():
        for told in (told for told in reports if told["benchmark"] == benchmark):
            if not parts:
                parts.append(f"## {told['title']}")
            setting = ", ".join(f"{name} {_plain(value)}" for name, value in told["setting"].items())
            parts += [f"**{machine}**, `{told['command']}`: {setting}.", markdown({**told, "goals": []}).strip()]
    return "\n\n".join(parts)


def page_of(results: Results, head: str) -> str:
    """The whole page.

    Args:
        results: Of `read_results`.
        head: What stands above the first table.
    """
    machines: list[dict[str, Cell]] = [
        {"machine": machine, **{name: str(value) for name, value in reports[0]["machine"].items()}}
        for machine, reports in results.items()
    ]
    benchmarks = sorted({told["benchmark"] for reports in results.values() for told in reports}, key=_place)
    parts = [head.strip(), "## Goals", table(machines), goals_table(results)]
    for benchmark in benchmarks:
        parts.append(section(benchmark, results))
        if benchmark == "cost":
            parts.append(
                f"![Cost of prefill against visual tokens, counted, by the paper's formula, measured]({PICTURE})"
            )
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Makes docs/performance.md from the results.")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is another")
    args = parser.parse_args()
    results = read_results(args.results)
    if not results:
        parser.error(f"--results {args.results}: no */*.json in it; run benchmarks/run_cpu.sh first")
    page = page_of(results, (HERE / "page_head.md").read_text(encoding="utf-8"))
    if args.check:
        if args.page.exists() and args.page.read_text(encoding="utf-8") == page:
            return 0
        print(
            f"{args.page} is not what {args.results} gives; run python benchmarks/performance_page.py", file=sys.stderr
        )
        return 1
    args.page.parent.mkdir(parents=True, exist_ok=True)
    args.page.write_text(page, encoding="utf-8")
    draw_costs(results, args.page.parent / PICTURE)
    print(f"wrote {args.page}")
    return 0


def _place(benchmark: str) -> tuple[int, str]:
    return (ORDER.index(benchmark) if benchmark in ORDER else len(ORDER), benchmark)


def _how_to_measure(benchmark: str, note: str) -> str:
    """A goal's note, and the command unless the note has one."""
    command = f"`python benchmarks/{benchmark}.py`"
    return note if "python benchmarks/" in note else ", ".join(filter(None, [note, command]))


def _reached(goal: Mapping[str, Any]) -> str | None:
    if goal["reached"] is None:
        return None
    return cell(goal["reached"]) if goal["met"] else f"**{cell(goal['reached'])}, missed**"


def _plain(value: Any) -> str:
    """A setting's value without the quotes and braces of Python."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_plain(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
