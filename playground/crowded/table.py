"""The table of what was measured: accuracy by kind of question, intervals, and leads over a rival.

python -m playground.crowded.table --split test --over visionzip
python -m playground.crowded.table --split test --recovered "visionzip (tuned)"
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from playground.crowded.freeze import HERE
from playground.crowded.measure import digest_of

KINDS = ("text", "which", "colour", "count", "side", "exist", "two-step")


@dataclass(frozen=True)
class Measured:
    """A method, its seeds averaged.

    Attributes:
        name: The budget, or what a tuned method is called.
        seeds: How many.
        tokens: Visual tokens a picture: mean, p95, most.
        earned: What each question earned, by its id: the mean of the seeds.
        per_seed: Accuracy of each seed.
    """

    name: str
    seeds: int
    tokens: Mapping[str, float]
    earned: Mapping[str, float]
    per_seed: tuple[float, ...]

    def accuracy(self, kinds: Mapping[str, str], kind: str | None = None) -> float:
        """Overall, or of a kind of question."""
        return mean(value for key, value in self.earned.items() if kind is None or kinds[key] == kind)


def read_results(folder: Path, questions: Sequence[Mapping[str, Any]]) -> dict[str, Measured]:
    """What `measure.py` left in a folder, by name.

    Args:
        folder: `results/WORLD/SPLIT`.
        questions: Those that were asked.

    Raises:
        ValueError: There are none, or some are of other questions or of another model.
    """
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    models: set[str] = set()
    for path in sorted(folder.glob("*.json")):
        row = json.loads(path.read_text())
        models.add(row["model"])
        if row["questions"] != digest_of(questions):
            raise ValueError(f"{path}: answers to other questions: of other data, or of another --limit")
        rows[row["name"]].append(row)
    if len(models) != 1:
        raise ValueError(f"{folder}: {'answers of several models' if models else 'no answers; measure.py writes them'}")
    found = {}
    for name, seeds in rows.items():
        right = [[float(a == q["answer"]) for a, q in zip(row["answers"], questions, strict=True)] for row in seeds]
        keys = [str(question["question_id"]) for question in questions]
        earned = dict(zip(keys, map(mean, zip(*right, strict=True)), strict=True))
        tokens = {key: mean(row["tokens"][key] for row in seeds) for key in seeds[0]["tokens"]}
        found[name] = Measured(name, len(seeds), tokens, earned, tuple(mean(each) for each in right))
    return found


def lead(one: Measured, other: Measured, pictures: Mapping[str, str]) -> tuple[float, float, float]:
    """How much better one is, and the 95 % interval over pictures."""
    from llava.results.bootstrap import paired_bootstrap

    difference = paired_bootstrap(one.earned, other.earned, groups=pictures)
    return difference.difference, difference.low, difference.high


def recovered(one: Measured, rival: Measured, everything: Measured, pictures: Mapping[str, str]) -> list[float]:
    """What share of a rival's loss against all tokens a method does not have, and its 95 % interval over pictures."""
    import numpy as np

    from llava.results.bootstrap import bootstrap_interval

    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for key, earned in rival.earned.items():
        of_picture = sums[pictures[key]]
        of_picture[0] += one.earned[key] - earned
        of_picture[1] += everything.earned[key] - earned
    parts = np.array(list(sums.values()))
    gained, lost = parts.sum(axis=0)
    return [gained / lost, *bootstrap_interval(parts, lambda drawn: drawn[:, 0] / drawn[:, 1])]


def shares(found: Mapping[str, Measured], questions: Sequence[Mapping[str, Any]], rival: str) -> str:
    """What each method recovers of what a rival with as many tokens loses, as a table.

    Raises:
        ValueError: All tokens, or the rival, have not been measured.
    """
    pictures = {str(question["question_id"]): str(question["image"]) for question in questions}
    rivals = [each for each in found.values() if _is_named(each, rival)]
    if "none" not in found or not rivals:
        raise ValueError(f"{'none' if rivals else rival}: not among what was measured: {', '.join(sorted(found))}")
    lines = [f"| method | recovers of what {rival} loses |", "|---|---|"]
    for each in found.values():
        for other in rivals:
            if each is not other and _alike(each, other):
                share, low, high = recovered(each, other, found["none"], pictures)
                lines.append(f"| {each.name} | {share:.0%} ({low:.0%} to {high:.0%}) |")
    return "\n".join(lines)


def markdown(found: Mapping[str, Measured], questions: Sequence[Mapping[str, Any]], over: str | None) -> str:
    """The table; most tokens first, then the best.

    Args:
        found: By name.
        questions: Of the split.
        over: A method, or one of its budgets, that each line of about as many tokens is compared with; None for nobody.
    """
    kinds = {str(question["question_id"]): str(question["kind"]) for question in questions}
    pictures = {str(question["question_id"]): str(question["image"]) for question in questions}
    head = f"| tokens | method | seeds | all | {' | '.join(KINDS)} |{f' lead over {over} |' if over else ''}"
    lines = [head, f"|{'---|' * (head.count('|') - 1)}"]
    ranked = sorted(found.values(), key=lambda each: (-round(each.tokens["mean"]), -each.accuracy(kinds), each.name))
    for each in ranked:
        cells = [f"{each.accuracy(kinds, kind):.1%}" for kind in (None, *KINDS)]
        line = f"| {each.tokens['mean']:.0f} | {each.name} | {each.seeds} | {' | '.join(cells)} |"
        rivals = [other for other in ranked if over and _is_named(other, over) and _alike(each, other)]
        if over and rivals and rivals[0] is not each:
            difference, low, high = lead(each, rivals[0], pictures)
            line += f" {100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) |"
        elif over:
            line += " - |"
        lines.append(line)
    return "\n".join(lines)


def _is_named(method: Measured, name: str) -> bool:
    """Whether that is its whole name, or the method's without the budget."""
    return name in (method.name, method.name.partition(":")[0])


def _alike(one: Measured, other: Measured) -> bool:
    return abs(one.tokens["mean"] - other.tokens["mean"]) < 1


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", choices=("dev", "test"), required=True)
    parser.add_argument("--world", choices=("first", "second"), default="first")
    parser.add_argument("--data", type=Path, help="default: data/WORLD beside this file")
    parser.add_argument("--results", type=Path, help="default: results/WORLD/SPLIT beside this file")
    parser.add_argument("--over", help="what to compare with at as many tokens: visionzip, or coverage:20")
    parser.add_argument(
        "--recovered", metavar="RIVAL", help="a second table: which share of its loss others do not have"
    )
    parser.add_argument("--limit", type=int, help="as it was given to measure.py")
    given = parser.parse_args()
    data = given.data or HERE / "data" / given.world
    questions = json.loads((data / f"eval_{given.split}.json").read_text())[: given.limit]
    folder = given.results or HERE / "results" / given.world / given.split
    found = read_results(folder, questions)
    print(markdown(found, questions, given.over))
    if given.recovered:
        print(f"\n{shares(found, questions, given.recovered)}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
