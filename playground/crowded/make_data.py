"""Writes the pictures and the questions of a crowded world: the same bytes for the same seed.

Output: `images/*.png`; `train.json` and `align.json` in LLaVA's format; `eval_dev.json` and `eval_test.json`, whose
scenes hold only instances that no training step sees, and none in common. Interrupted, it goes on; with other arguments
or another recipe it starts anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from playground.crowded.questions import ASKED, CAPTION_PROMPT, Question, Scene, ask, caption, converse, read_scene
from playground.crowded.scenes import GRID, SceneBatch, render, sample_scenes
from playground.crowded.things import Split, load_bank

CHUNK = 250
RECIPE = ("make_data.py", "questions.py", "scenes.py", "things.py", "backgrounds.py")
FILES = {"train": ("train.json", "align.json"), "dev": ("eval_dev.json",), "test": ("eval_test.json",)}
STAMP = ".made_by"
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
_SEEDS = {"train": 0, "dev": 1, "test": 2}


def main() -> None:
    """Writes what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).parent
    parser.add_argument("--output", type=Path, help="default: data/WORLD beside this file")
    parser.add_argument("--world", choices=("first", "second"), default="first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=10000, help="training pictures")
    parser.add_argument("--align", type=int, default=10000, help="of them, those of the first stage")
    parser.add_argument("--scenes", type=int, default=500, help="pictures of dev, and of test")
    parser.add_argument("--questions", type=int, default=3500, help="questions of dev, and of test")
    parser.add_argument("--splits", default=",".join(SPLITS), help="those to make (default: all)")
    arguments = parser.parse_args()
    arguments.output = arguments.output or here / "data" / arguments.world
    for name in ("train", "align", "scenes", "questions"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    splits = [split for split in SPLITS if split in arguments.splits.split(",")]
    if len(splits) != len(arguments.splits.split(",")):
        parser.error(f"--splits {arguments.splits}: give some of {', '.join(SPLITS)}, separated by commas")
    make(arguments, splits)


def make(arguments: argparse.Namespace, splits: Sequence[Split]) -> None:
    """Paints and asks; see `main` for the arguments. A split is the same whether the others are made or not."""
    (arguments.output / "images").mkdir(parents=True, exist_ok=True)
    remove_others(arguments)
    missing = [split for split in splits if not is_complete(split, arguments)]
    if not missing:
        print(f"already there: {os.path.relpath(arguments.output)}")
    for split in missing:
        count = arguments.train if split == "train" else arguments.scenes
        drawn = sample_scenes(
            np.random.default_rng(seed_of(arguments, split, 0)), load_bank(split), arguments.world, count
        )
        names = paint(drawn, split, arguments)
        scenes = [read_scene(drawn, index, arguments.world) for index in range(count)]
        rng = np.random.default_rng(seed_of(arguments, split, 1))
        if split != "train":
            write(arguments.output / f"eval_{split}.json", make_questions(scenes, names, arguments.questions, rng))
            continue
        asked = [conversation(name, converse(scene, rng)) for name, scene in zip(names, scenes, strict=True)]
        write(arguments.output / "train.json", asked)
        told = [(name, caption(scene, rng)) for name, scene in zip(names[: arguments.align], scenes, strict=False)]
        write(arguments.output / "align.json", [conversation(name, [(CAPTION_PROMPT, text)]) for name, text in told])


def seed_of(arguments: argparse.Namespace, split: Split, *more: int) -> list[int]:
    """A seed of its own for each world, split and purpose."""
    return [arguments.seed, int(arguments.world == "second"), _SEEDS[split], *more]


def picture_names(split: Split, count: int) -> list[str]:
    """Names the pictures of a split."""
    return [f"{split}_{index:05d}.png" for index in range(count)]


def paint(scenes: SceneBatch, split: Split, arguments: argparse.Namespace) -> list[str]:
    """Writes the pictures that are not there yet and returns all their names."""
    folder, names = arguments.output / "images", picture_names(split, len(scenes))
    for start in tqdm(range(0, len(scenes), CHUNK), desc=f"{split} pictures"):
        part = scenes[start : start + CHUNK]
        if all((folder / name).exists() for name in names[start : start + CHUNK]):
            continue
        rng = np.random.default_rng(seed_of(arguments, split, 2, start))
        images = render(rng, part, load_bank(split), arguments.world, split)
        for name, image in zip(names[start : start + CHUNK], images, strict=True):
            Image.fromarray(image).save(folder / f"{name}.part", format="PNG", compress_level=1)
            os.replace(folder / f"{name}.part", folder / name)
    return names


def make_questions(scenes: list[Scene], names: list[str], count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Asks `count` questions, the kinds in turn, so that all kinds are equally frequent."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        kind = ASKED[number % len(ASKED)]
        index = number // len(ASKED) % len(scenes)
        found = None
        while found is None:  # not every scene has a question of every kind
            found = ask(kind, scenes[index], rng) or ask(kind, scenes[index], rng)
            shown, index = index, (index + 1) % len(scenes)
        row = {"question_id": number, "image": names[shown], "text": found.text, "answer": found.answer}
        rows.append(row | {"kind": found.kind} | share_of(found))
    return rows


def share_of(question: Question) -> dict[str, float]:
    """How much of the picture the thing covers that the answer is read off, where it is one thing."""
    return {} if question.patches is None else {"object_share": round(question.patches / GRID**2, 4)}


def conversation(name: str, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Gives one conversation about one picture in LLaVA's format, the picture in the first turn."""
    said = []
    for index, (question, answer) in enumerate(pairs):
        said.append({"from": "human", "value": ("" if index else "<image>\n") + question})
        said.append({"from": "gpt", "value": answer})
    return {"id": name.removesuffix(".png"), "image": name, "conversations": said}


def stamp_of(arguments: argparse.Namespace) -> str:
    """Tells what the data depend on: every argument but the folder, and the recipe's source."""
    digest = hashlib.sha256(b"".join((Path(__file__).parent / name).read_bytes() for name in RECIPE)).hexdigest()
    made_with = {name: value for name, value in vars(arguments).items() if name not in ("output", "splits")}
    return json.dumps({**made_with, "recipe": digest[:16]}, sort_keys=True) + "\n"


def remove_others(arguments: argparse.Namespace) -> None:
    """Removes what was made with other arguments, or by another recipe."""
    folder, stamp = arguments.output, arguments.output / STAMP
    wanted = stamp_of(arguments)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    old = [path for split in SPLITS for path in folder.glob(f"images/{split}_*.png")]
    for path in [*old, *(folder / name for split in SPLITS for name in FILES[split])]:
        path.unlink(missing_ok=True)
    stamp.write_text(wanted)


def is_complete(split: Split, arguments: argparse.Namespace) -> bool:
    """Whether all files of a split are there."""
    count = arguments.train if split == "train" else arguments.scenes
    pictures = [f"images/{name}" for name in picture_names(split, count)]
    return all((arguments.output / name).exists() for name in (*FILES[split], *pictures))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a JSON file, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(rows, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    os.replace(part, path)


if __name__ == "__main__":
    main()
