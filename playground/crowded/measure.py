"""Asks a split's questions under some budgets and keeps the answers.

    python -m playground.crowded.measure --split dev visionzip:17+3 random:20 --seeds 3
    python -m playground.crowded.measure --split test coverage:20
    python -m playground.crowded.measure --split test coverage:20 --projector DIR --name coverage-tuned --seed 0

`dev` is for choosing, as often as one likes. `test` is asked once for each method and seed: the world must be as it was
frozen, the working tree committed, and what is there is never asked again. Answers of both lie in
`results/WORLD/SPLIT/`, a file a method and seed, with the commit that gave them. Answers of another model, to other
questions or under another budget than a file of that name holds are refused, not mixed in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from playground.crowded.freeze import HERE, changed_parts

ORIGIN = ("name", "budget", "seed", "split", "model", "projector", "questions")
"""What a file's answers are of; with the same of all of these they are the same, and are not asked for again."""


def main() -> int:
    """Measures what is not there yet; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("budgets", nargs="+", metavar="BUDGET", help="none, visionzip:17+3, coverage:20,alpha=0.5, ...")
    parser.add_argument("--split", choices=("dev", "test"), required=True)
    parser.add_argument("--world", choices=("first", "second"), default="first")
    parser.add_argument("--data", type=Path, help="default: data/WORLD beside this file")
    parser.add_argument("--model", type=Path, help="default: model/WORLD beside this file")
    parser.add_argument("--results", type=Path, help="default: results/WORLD/SPLIT beside this file")
    parser.add_argument("--projector", type=Path, help="a tuned projector to put on")
    parser.add_argument("--name", help="what a tuned method is called, in place of its budget; needs one BUDGET")
    parser.add_argument("--seed", type=int, help="of the tuning, for --name")
    parser.add_argument("--seeds", type=int, default=1, help="draws of methods that draw (random)")
    parser.add_argument("--limit", type=int, help="questions of dev")
    parser.add_argument("--batch-size", type=int, default=50)
    given = parser.parse_args()
    if given.name and len(given.budgets) != 1:
        parser.error("--name needs one BUDGET")
    if (given.projector is None) != (given.name is None):
        parser.error("--projector and --name go together: a tuned method must not be taken for an untuned one")
    if given.limit is not None and given.split == "test":
        parser.error("--limit: test is asked whole")
    if given.seed is not None and given.name is None:
        parser.error("--seed is that of a tuning and goes with --name; --seeds says how often random is drawn")
    for flag in ("limit", "seeds", "batch_size"):
        value = getattr(given, flag)
        if value is not None and value < 1:
            parser.error(f"--{flag.replace('_', '-')} must be at least 1, got {value}")
    given.data = given.data or HERE / "data" / given.world
    given.model = given.model or HERE / "model" / given.world
    given.results = given.results or HERE / "results" / given.world / given.split
    if given.split == "test":
        check_frozen(given.world, given.data, given.model)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    run(given)
    return 0


def check_frozen(world: str, data: Path, model: Path) -> None:
    """Ends with a message unless the world is as it was frozen and the code is committed."""
    try:
        changed = changed_parts(world, data, model)
    except FileNotFoundError as error:
        sys.exit(f"{world}: {error.filename} is not there; test is asked on the frozen world only")
    if changed:
        sys.exit(f"{world}: {', '.join(changed)} not as frozen; test is asked on the frozen world only")
    said = subprocess.run(
        ["git", "status", "--porcelain", "--", "llava", "playground/crowded/*.py"],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    if said:
        sys.exit(f"commit first, so that the answers name the code that gave them:\n{said}")


def run(given: argparse.Namespace) -> None:
    """Measures every budget and seed that has no file yet."""
    from llava.inference import Inference
    from llava.model.checkpoints.fingerprint import model_fingerprint

    budgets = {text: read_budget(text) for text in given.budgets}
    questions = json.loads((given.data / f"eval_{given.split}.json").read_text())[: given.limit]
    places = {"device": "cpu", "torch_dtype": "float32", "compression": "none"}
    inference = (
        Inference.load(given.model, **places)
        if given.projector is None
        else Inference.load(given.projector, given.model, **places)
    )
    for budget in budgets.values():  # all of them before the first takes its minute
        inference.model.set_compression(budget)
    given.results.mkdir(parents=True, exist_ok=True)
    origin = {"split": given.split, "model": model_fingerprint(given.model), "questions": digest_of(questions)}
    origin["projector"] = given.projector and model_fingerprint(given.projector, given.model)
    for budget in budgets.values():
        is_drawn = budget is not None and budget.method == "random"
        for seed in range(given.seeds) if is_drawn and given.name is None else (given.seed or 0,):
            name = given.name or str(budget or "none")
            path = given.results / f"{file_name(name)}.seed{seed}.json"
            row = {"name": name, "budget": str(budget or "none"), "seed": seed, **origin}
            if path.exists():
                check_same(path, row)
                print(f"already there: {os.path.relpath(path)}")
                continue
            drawn = replace(budget, seed=seed) if is_drawn else budget
            row["commit"] = commit()
            row |= answers_of(inference, drawn, questions, given.data / "images", given.batch_size)
            path.with_suffix(".part").write_text(json.dumps(row) + "\n")
            os.replace(path.with_suffix(".part"), path)
            right = mean(said == asked["answer"] for said, asked in zip(row["answers"], questions, strict=True))
            print(f"{name} seed {seed}: {right:.1%} with {row['tokens']['mean']:.1f} tokens", flush=True)


def read_budget(text: str) -> Any:
    """The budget, None for `none`.

    Raises:
        ValueError: It is none, or draws by a seed of its own, which --seeds gives.
    """
    from llava.model.configuration import as_compression

    budget = as_compression(text)
    if budget is not None and budget.method == "random" and budget.seed:
        raise ValueError(f"{text}: leave seed= out; --seeds 3 draws with the seeds 0, 1 and 2")
    return budget


def digest_of(questions: Sequence[Mapping[str, Any]]) -> str:
    """A hash of the questions asked, their pictures' names and their answers."""
    return hashlib.sha256(json.dumps(list(questions), sort_keys=True).encode()).hexdigest()[:16]


def check_same(path: Path, row: Mapping[str, Any]) -> None:
    """Refuses to take the answers of a file for those of another model, method or set of questions.

    Raises:
        ValueError: They are not what `row` says.
    """
    there = json.loads(path.read_text())
    other = [key for key in ORIGIN if there.get(key) != row[key]]
    if other:
        raise ValueError(
            f"{os.path.relpath(path)}: answers of another {', '.join(other)} (with --limit, of other questions); "
            "remove the file, or give --results another folder"
        )


def answers_of(
    inference: Any, budget: Any, questions: list[dict[str, Any]], images: Path, batch_size: int
) -> dict[str, Any]:
    """What is said to each question, in their order, and how many visual tokens a picture had: mean, p95, most."""
    import numpy as np

    from llava.eval.tasks import get_task
    from llava.inference import GenerationOptions, Question

    task = get_task("crowded_dev")
    inference.model.set_compression(budget)
    asked = [Question(question["text"], (images / question["image"],)) for question in questions]
    options = GenerationOptions(max_new_tokens=task.max_new_tokens)
    answers, tokens = [""] * len(asked), np.zeros(len(asked))
    for answer in inference.ask(asked, batch_size=batch_size, options=options):
        answers[answer.index], tokens[answer.index] = task.parse(answer.text), answer.visual_tokens
    shown = {"mean": float(tokens.mean()), "p95": float(np.percentile(tokens, 95)), "max": float(tokens.max())}
    return {"tokens": shown, "answers": answers}


def file_name(name: str) -> str:
    """A method's name without what files must not be called."""
    return "".join(char if char.isalnum() or char in "+-=.,_" else "_" for char in name)


def commit() -> str:
    """The commit of the code; `-dirty` behind it if something is not committed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command goes on with what is missing")
