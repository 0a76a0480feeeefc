"""What is to be reproduced: a recipe of `llava/configs/reproduce`, and the variables that change it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llava.results.paper import PaperRow, PaperTable, paper_tables

RECIPES = Path(__file__).resolve().parents[2] / "configs" / "reproduce"
TERMS = "terms.json"
JUDGED = ("mmvet", "llava_bench")
"""Tasks of the tables that only a judge can score."""
VARIABLES: Mapping[str, str] = {
    "MODEL": "checkpoint, local or of the Hub; default: the recipe's",
    "VANILLA": "OUTPUT of an untuned model, whose all tokens a tuned MODEL is held against, as in the paper",
    "BASE": "what a projector or adapters of MODEL go on",
    "DATA": "data root of the benchmarks (default playground/data/eval)",
    "OUTPUT": "folder of answers, results and the report (default runs/reproduce/TABLE)",
    "TASKS": "benchmarks, separated by commas; default: the table's",
    "BUDGETS": "tokens of an image, as the table prints them; default: all of its rows",
    "LIMIT": "only the first so many questions of each benchmark",
    "BATCH": "questions a batch, default auto",
    "DTYPE": "of the weights; default: float16 on a GPU",
    "DEVICE": "cpu does without a GPU, slowly",
    "NPROC": "processes, one a GPU; default: those of CUDA_VISIBLE_DEVICES, else 1",
    "PILOT": "questions a benchmark that the time is estimated from (default 16; 0: no estimate)",
    "RESAMPLES": "of the bootstrap (default 2000)",
    "JUDGE_URL": "of the judge that grades MM-Vet and LLaVA-Bench; without, their columns stay empty",
    "JUDGE_MODEL": "the judge, as JUDGE_URL calls it",
    "ASK_SIZES": "0: publishers are not asked how large their files are",
    "DRY_RUN": "1: print preflight and plan, and end",
}


@dataclass(frozen=True)
class Recipe:
    """A file of `llava/configs/reproduce`.

    Attributes:
        table: Name of the paper's table.
        model: The checkpoint that it is about.
        parameters: Of that checkpoint, its tower included.
        tiles: Over which the paper counts an image's tokens.
        rows: The method of the rows that an untuned model is held against.
        tuned_rows: The same for a tuned one.
        tasks: Its columns, as tasks.
    """

    table: str
    model: str
    parameters: int
    tiles: int
    rows: str
    tuned_rows: str
    tasks: tuple[str, ...]

    @property
    def paper(self) -> PaperTable:
        """The paper's table."""
        return paper_tables()[self.table]


@dataclass(frozen=True)
class Plan:
    """A recipe with the user's variables.

    Attributes:
        recipe: What is reproduced.
        model: Checkpoint.
        base: What it goes on, "" for nothing.
        vanilla: Folder of an untuned model's results; None without.
        data: Data root.
        output: Folder of everything that is made.
        tasks: Benchmarks.
        budgets: Tokens of an image, as the paper's rows say, without that of all tokens.
        limit: Questions of each benchmark; None for all.
        batch: Questions a batch; None for auto.
        dtype: Of the weights, "" for the default.
        device: "" for a GPU.
        processes: Of an evaluation.
        pilot: Questions a benchmark that the time is estimated from.
        resamples: Of the bootstrap.
        judge_url: "" without a judge.
        judge_model: The same.
        ask_sizes: Whether publishers are asked for sizes.
    """

    recipe: Recipe
    model: str
    base: str
    vanilla: Path | None
    data: Path
    output: Path
    tasks: tuple[str, ...]
    budgets: tuple[int, ...]
    limit: int | None
    batch: int | None
    dtype: str
    device: str
    processes: int
    pilot: int
    resamples: int
    judge_url: str
    judge_model: str
    ask_sizes: bool

    def paper_row(self, tokens: int, tuned: bool) -> PaperRow:
        """The paper's row at a budget."""
        return self.recipe.paper.row(self.recipe.tuned_rows if tuned else self.recipe.rows, tokens)


def recipe_names() -> list[str]:
    """Names of the tables that there are recipes of."""
    names = (file.stem for file in RECIPES.glob("*.json") if file.name != TERMS)
    return sorted(names, key=lambda name: (len(name), name))


def read_recipe(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        ValueError: There is none.
    """
    if name not in recipe_names():
        raise ValueError(f"no recipe of {name!r}; there are: {', '.join(recipe_names())}")
    content = json.loads((RECIPES / f"{name}.json").read_text(encoding="utf-8"))
    return Recipe(**content | {"tasks": tuple(content["tasks"])})


def read_terms() -> Mapping[str, Mapping[str, list[str]]]:
    """Licence or terms, and the page that has them, of `models` and `tasks` by name."""
    content: dict[str, dict[str, list[str]]] = json.loads((RECIPES / TERMS).read_text(encoding="utf-8"))
    return content


def make_plan(name: str, environment: Mapping[str, str]) -> Plan:
    """A recipe with the variables of an environment.

    Raises:
        ValueError: There is no such recipe, or a variable has a value that it cannot have; the message names it.
    """
    recipe = read_recipe(name)
    given = {name: environment.get(name, "").strip() for name in VARIABLES}
    cards = [card for card in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if card.strip()]
    if bool(given["JUDGE_URL"]) != bool(given["JUDGE_MODEL"]):
        raise ValueError("JUDGE_URL and JUDGE_MODEL go together: give both, or none")
    return Plan(
        recipe=recipe,
        model=given["MODEL"] or recipe.model,
        base=given["BASE"],
        vanilla=Path(given["VANILLA"]) if given["VANILLA"] else None,
        data=Path(given["DATA"] or "playground/data/eval"),
        output=Path(given["OUTPUT"] or f"runs/reproduce/{recipe.table}"),
        tasks=_tasks(given["TASKS"], recipe),
        budgets=_budgets(given["BUDGETS"], recipe),
        limit=_whole("LIMIT", given["LIMIT"], 1, None),
        batch=_whole("BATCH", "" if given["BATCH"] == "auto" else given["BATCH"], 1, None),
        dtype=given["DTYPE"],
        device=given["DEVICE"],
        processes=_whole("NPROC", given["NPROC"], 1, len(cards) or 1) or 1,
        pilot=_whole("PILOT", given["PILOT"], 0, 16) or 0,
        resamples=_whole("RESAMPLES", given["RESAMPLES"], 1, 2_000) or 1,
        judge_url=given["JUDGE_URL"],
        judge_model=given["JUDGE_MODEL"],
        ask_sizes=given["ASK_SIZES"] != "0",
    )


def _tasks(text: str, recipe: Recipe) -> tuple[str, ...]:
    named = tuple(dict.fromkeys(name for name in text.replace(",", " ").split()))
    for name in named:
        if name not in recipe.tasks:
            raise ValueError(f"TASKS={text}: {name} is no column of {recipe.table}; it has {', '.join(recipe.tasks)}")
    return named or recipe.tasks


def _budgets(text: str, recipe: Recipe) -> tuple[int, ...]:
    known = tuple(row.tokens for row in recipe.paper.rows if row.method == recipe.rows)
    named = tuple(dict.fromkeys(text.replace(",", " ").split()))
    for name in named:
        if name not in map(str, known):
            raise ValueError(f"BUDGETS={text}: {name} is no row of {recipe.table}; it has {', '.join(map(str, known))}")
    return tuple(map(int, named)) or known


def _whole(name: str, text: str, least: int, default: int | None) -> int | None:
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise ValueError(f"{name}={text}: give a whole number, {least} or more")
    return int(text)
