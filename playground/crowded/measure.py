"""Asks a split's questions under some budgets and keeps the answers.

    python -m playground.crowded.measure --split dev visionzip:17+3 random:20 --seeds 3
    python -m playground.crowded.measure --split test coverage:20
    python -m playground.crowded.measure --split test coverage:20 --projector DIR --name coverage-tuned --seed 0

`dev` is for choosing, as often as one likes. `test` is asked once for each method and seed: the world must be as it was
frozen, the working tree committed, and what is there is never asked again. Answers of both lie in
`results/WORLD/SPLIT/`, a file a method and seed, with the commit that gave them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from playground.crowded.freeze import HERE, changed_parts


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
    parser.add_argument("--seed", type=int, default=0, help="of the tuning, for --name")
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
    given.data = given.data or HERE / "data" / given.world
    given.model = given.model or HERE / "model" / given.world
    given.results = given.results or HERE / "results" / given.world / given.split
    if given.split == "test":
        check_frozen(given.world, given.data)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    run(given)
    return 0


def check_frozen(world: str, data: Path) -> None:
    """Ends with a message unless the world is as it was frozen and the code is committed."""
    try:
        changed = changed_parts(world, data)
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
    from llava.model.configuration import as_compression

    questions = json.loads((given.data / f"eval_{given.split}.json").read_text())[: given.limit]
    places = {"device": "cpu", "torch_dtype": "float32", "compression": "none"}
    inference = (
        Inference.load(given.model, **places)
        if given.projector is None
        else Inference.load(given.projector, given.model, **places)
    )
    given.results.mkdir(parents=True, exist_ok=True)
    for text in given.budgets:
        budget = None if text == "none" else as_compression(text)
        draws = range(given.seeds) if budget is not None and budget.method == "random" else (given.seed,)
        for seed in draws:
            name = given.name or text
            path = given.results / f"{file_name(name)}.seed{seed}.json"
            if path.exists():
                print(f"already there: {os.path.relpath(path)}")
                continue
            drawn = replace(budget, seed=seed) if budget is not None and budget.method == "random" else budget
            row = {"name": name, "budget": text, "seed": seed, "split": given.split, "commit": commit()}
            row |= answers_of(inference, drawn, questions, given.data / "images", given.batch_size)
            path.with_suffix(".part").write_text(json.dumps(row) + "\n")
            os.replace(path.with_suffix(".part"), path)
            right = mean(said == asked["answer"] for said, asked in zip(row["answers"], questions, strict=True))
            print(f"{name} seed {seed}: {right:.1%} with {row['tokens']['mean']:.1f} tokens", flush=True)


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
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command goes on with what is missing")
