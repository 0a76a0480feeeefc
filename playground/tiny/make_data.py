"""Writes the pictures and the questions of the tiny benchmark: the same bytes for the same seed.

Output: `images/*.png`; `train.json` and `align.json` in LLaVA's format; `eval_vqa.json` and `eval_pope.json`, whose
scenes hold only digits that no training step sees. Interrupted, it goes on; with other arguments or another recipe it
starts anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from questions import CAPTION_PROMPT, KINDS, LOOK_ALIKE, Digit, ask, caption, converse, exist_question, read_scene
from scenes import SceneBatch, enlarge, load_block, render, sample_scenes
from tqdm import tqdm

SPLITS = ("random", "popular", "adversarial")
CHUNK = 250
RECIPE = ("make_data.py", "questions.py", "scenes.py")
FILES = ("train.json", "align.json", "eval_vqa.json", "eval_pope.json")
STAMP = ".made_by"


def paint(scenes: SceneBatch, held_out: bool, prefix: str, folder: Path, seed: int) -> list[str]:
    """Writes the pictures that are not there yet and returns all their names."""
    block = load_block(held_out)
    names = picture_names(prefix, len(scenes))
    for start in tqdm(range(0, len(scenes), CHUNK), desc=f"{prefix} pictures"):
        part = scenes[start : start + CHUNK]
        if all((folder / name).exists() for name in names[start : start + CHUNK]):
            continue
        rng = np.random.default_rng([seed, int(held_out), start])
        images = render(rng, part, enlarge(block.images[part.sources]))
        for name, image in zip(names[start : start + CHUNK], images, strict=True):
            Image.fromarray(image).save(folder / f"{name}.part", format="PNG", compress_level=1)
            os.replace(folder / f"{name}.part", folder / name)
    return names


def picture_names(prefix: str, count: int) -> list[str]:
    """Names the pictures of a set."""
    return [f"{prefix}_{index:05d}.png" for index in range(count)]


def stamp_of(arguments: argparse.Namespace) -> str:
    """Tells what the data depend on: every argument but the folder, and the recipe's source."""
    digest = hashlib.sha256(b"".join((Path(__file__).parent / name).read_bytes() for name in RECIPE)).hexdigest()
    made_with = {name: value for name, value in vars(arguments).items() if name != "output"}
    return json.dumps({**made_with, "recipe": digest[:16]}, sort_keys=True) + "\n"


def is_complete(arguments: argparse.Namespace) -> bool:
    """Whether all files are there and were made just so; what was made otherwise is removed."""
    folder, stamp = arguments.output, arguments.output / STAMP
    wanted = stamp_of(arguments)
    if not stamp.exists() or stamp.read_text() != wanted:
        old = [
            *folder.glob("images/train_*.png"),
            *folder.glob("images/eval_*.png"),
            *(folder / name for name in FILES),
        ]
        for path in old:
            path.unlink(missing_ok=True)
        stamp.write_text(wanted)
        return False
    pictures = picture_names("train", arguments.train) + picture_names("eval", arguments.scenes)
    return all((folder / name).exists() for name in (*FILES, *(f"images/{picture}" for picture in pictures)))


def turns(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Gives LLaVA's list of turns, the picture in the first."""
    said = []
    for index, (question, answer) in enumerate(pairs):
        said.append({"from": "human", "value": ("" if index else "<image>\n") + question})
        said.append({"from": "gpt", "value": answer})
    return said


def conversation(name: str, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Gives one conversation about one picture in LLaVA's format."""
    return {"id": name.removesuffix(".png"), "image": name, "conversations": turns(pairs)}


def make_vqa(scenes: list[list[Digit]], names: list[str], count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Asks `count` questions, the kinds in turn, so that all kinds are equally frequent."""
    rows = []
    for number in range(count):
        index = number % len(scenes)
        kind = KINDS[(number + number // len(scenes)) % len(KINDS)]
        question = ask(kind, scenes[index], rng)
        rows.append(
            {
                "question_id": number,
                "image": names[index],
                "text": question.text,
                "answer": question.answer,
                "kind": question.kind,
            }
        )
    return rows


def absent_digit(split: str, digits: list[Digit], common: list[int], rng: np.random.Generator) -> int:
    """Chooses a digit that is not there: any, the most common in training, or one that looks like a digit present."""
    present = {digit.value for digit in digits}
    if split == "popular":
        return next(value for value in common if value not in present)
    alike = sorted({other for value in present for other in LOOK_ALIKE[value]} - present)
    choice = alike if split == "adversarial" and alike else sorted(set(range(10)) - present)
    return choice[int(rng.integers(len(choice)))]


def make_pope(
    scenes: list[list[Digit]], names: list[str], count: int, common: list[int], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Asks `count` questions "Is there a ...?", half of them to be denied, the three splits in turn."""
    rows = []
    for number in range(count):
        index, split = (number // 2) % len(scenes), SPLITS[(number // 2) % len(SPLITS)]
        digits = scenes[index]
        yes = digits[int(rng.integers(len(digits)))].value
        question = exist_question(absent_digit(split, digits, common, rng) if number % 2 else yes, digits)
        rows.append(
            {
                "question_id": number,
                "image": names[index],
                "text": question.text,
                "answer": question.answer,
                "kind": question.kind,
                "split": split,
            }
        )
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a JSON list, whole or not at all."""
    Path(f"{path}.part").write_text(json.dumps(rows, indent=1) + "\n")
    os.replace(f"{path}.part", path)


def main() -> None:
    """Makes pictures and questions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--train", type=int, default=10_000, help="training conversations")
    parser.add_argument("--align", type=int, default=10_000, help="captions (of the training pictures)")
    parser.add_argument("--scenes", type=int, default=500, help="held-out scenes")
    parser.add_argument("--vqa", type=int, default=2_000, help="held-out questions of all kinds")
    parser.add_argument("--pope", type=int, default=1_000, help="held-out yes/no questions")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = arguments.output / "images"
    folder.mkdir(parents=True, exist_ok=True)
    if is_complete(arguments):
        print(f"already there: {os.path.relpath(arguments.output)}")
        return
    rng = np.random.default_rng(arguments.seed)
    seen = sample_scenes(rng, load_block(False), arguments.train)
    unseen = sample_scenes(rng, load_block(True), arguments.scenes)
    names = paint(seen, False, "train", folder, arguments.seed)
    held = paint(unseen, True, "eval", folder, arguments.seed)
    scenes = [read_scene(seen, index) for index in range(len(seen))]
    tests = [read_scene(unseen, index) for index in range(len(unseen))]
    asked = [converse(digits, rng) for digits in scenes]
    common = [value for value, _ in Counter(digit.value for digits in scenes for digit in digits).most_common()]
    common += [value for value in range(10) if value not in common]
    write(
        arguments.output / "train.json",
        [conversation(name, pairs) for name, pairs in zip(names, asked, strict=True)],
    )
    write(
        arguments.output / "align.json",
        [
            conversation(n, [(CAPTION_PROMPT, caption(d, rng))])
            for n, d in list(zip(names, scenes, strict=True))[: arguments.align]
        ],
    )
    write(arguments.output / "eval_vqa.json", make_vqa(tests, held, arguments.vqa, rng))
    write(arguments.output / "eval_pope.json", make_pope(tests, held, arguments.pope, common, rng))


if __name__ == "__main__":
    main()
