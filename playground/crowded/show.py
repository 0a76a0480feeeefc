"""Shows the crowded world in a minute or two: the table of the committed answers, and some questions asked now.

    python -m playground.crowded.show
    python -m playground.crowded.show --questions 300 --out playground/crowded/out/shown

What is asked now is the start of `dev`, with all tokens, VisionZip and coverage; the committed answers to the same
questions stand beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from playground.crowded.freeze import HERE
from playground.crowded.measure import file_name
from playground.crowded.table import markdown, read_results

REPOSITORY = HERE.parents[1]
ASKED_NOW = ("none", "visionzip:17+3", "coverage:20")


def main() -> int:
    """Makes what is missing, prints the table, asks, compares; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=("first", "second"), default="first")
    parser.add_argument("--questions", type=int, default=300, help="to ask now (default 300)")
    parser.add_argument("--out", type=Path, help="of what is asked now; default: out/shown beside this file")
    given = parser.parse_args()
    if given.questions < 1:
        parser.error(f"--questions must be at least 1, got {given.questions}")
    out = (given.out or HERE / "out" / "shown") / f"{given.world}-{given.questions}"
    data, committed = HERE / "data" / given.world, HERE / "results" / given.world
    call("make_data", "--world", given.world, "--splits", "dev,test")
    questions = json.loads((data / "eval_test.json").read_text())
    print(f"\nTest, {len(questions):,} questions, from the committed answers:\n", flush=True)
    print(markdown(read_results(committed / "test", questions), questions, "visionzip"), flush=True)

    print(f"\nAsked now, the first {given.questions} questions of dev:\n", flush=True)
    flags = ["--limit", str(given.questions), "--results", str(out), "--world", given.world]
    call("measure", "--split", "dev", *flags, *ASKED_NOW)
    asked = json.loads((data / "eval_dev.json").read_text())[: given.questions]
    print(f"\n{markdown(read_results(out, asked), asked, 'visionzip')}\n")
    for budget in ASKED_NOW:
        name = f"{file_name(budget)}.seed0.json"
        print(f"{budget}: {equal_answers(out / name, committed / 'dev' / name)}")
    return 0


def equal_answers(now: Path, then: Path) -> str:
    """How many of the answers given now are the committed ones."""
    if not then.exists():
        return "no committed answers to compare with"
    said, kept = (json.loads(path.read_text())["answers"] for path in (now, then))
    same = sum(one == other for one, other in zip(said, kept, strict=False))
    return f"{same} of {len(said)} answers equal the committed ones"


def call(module: str, *arguments: str) -> None:
    """Runs a command of this folder, its output shown."""
    command: Sequence[str] = (sys.executable, "-m", f"playground.crowded.{module}", *arguments)
    subprocess.run(command, cwd=REPOSITORY, check=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(map(str, error.cmd))} failed with exit status {error.returncode}; run again to go on")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command goes on from here")
