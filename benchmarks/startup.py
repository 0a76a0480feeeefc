"""Start-up: `import llava` and `--help` of every command, each in new processes, beside a Python that does nothing.

    python benchmarks/startup.py --repeats 5

The sides are run in turn. What is heavy (torch, transformers, Pillow) is imported by none of them, which
tests/test_startup.py checks; so the seconds are Python's own, and those of small modules.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from report import Goal, Report

ROOT = Path(__file__).resolve().parents[1]
NOTHING, IMPORT = "python -c pass", "import llava"


def commands() -> dict[str, list[str]]:
    """Name -> command line of everything that is started."""
    found = {NOTHING: ["-c", "pass"], IMPORT: ["-c", "import llava"]}
    for file in sorted((ROOT / "llava").rglob("*.py")):
        if '__name__ == "__main__"' in file.read_text(encoding="utf-8"):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
            found[f"{module} --help"] = ["-m", module, "--help"]
    for file in sorted((ROOT / "scripts").glob("*.py")):
        found[f"scripts/{file.name} --help"] = [str(file), "--help"]
    return found


def seconds(words: list[str]) -> float:
    """From the start of a process to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Seconds until a command has started.")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.warmup < 0 or arguments.repeats < 1:
        parser.error("--warmup must be at least 0 and --repeats at least 1")
    times: dict[str, list[float]] = {name: [] for name in commands()}
    for turn in range(arguments.warmup + arguments.repeats):
        for name, words in commands().items():
            taken = seconds(words)
            if turn >= arguments.warmup:
                times[name].append(taken)
    median = {name: statistics.median(taken) for name, taken in times.items()}
    imported = max(0.0, median[IMPORT] - median[NOTHING])
    slowest = max((name for name in median if name.endswith("--help")), key=lambda name: median[name])
    Report(
        benchmark="startup",
        title="Start-up: seconds from the start of a process to its end",
        device=torch.device("cpu"),
        setting={"repeats": arguments.repeats, "python": sys.version.split()[0]},
        rows=[
            {"command": name, "median s": median[name], "fastest s": min(taken), "slowest s": max(taken)}
            for name, taken in times.items()
        ],
        ratios={"import_seconds": imported, "slowest_help_seconds": median[slowest]},
        goals=[
            Goal("import llava: seconds above those of a Python that does nothing", imported, at_most=0.3),
            Goal("--help of every command: seconds of the slowest", median[slowest], at_most=1.0),
        ],
        notes=[f"The slowest is {slowest.removesuffix(' --help')}."],
    ).tell(arguments.json)


if __name__ == "__main__":
    main()
