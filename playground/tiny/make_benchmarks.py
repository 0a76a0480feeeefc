"""Writes miniatures of the public benchmarks, in their own files, about scenes of held-out digits.

Output: the local layout of docs/benchmarks.md, and `eval_vqa.json`, `eval_pope.json` and `images/` of the embedded
tasks, so `python -m llava.eval --tasks all --data-root OUTPUT` runs every task. With `--parquet`, the same questions as
the Hub's tables: `--data-source FOLDER`. The same bytes for the same arguments.
"""

from __future__ import annotations

import argparse
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from benchmark_scenes import Picture, Places, make_pictures
from benchmarks_beyond import chartqa, mmstar, ocrbench, refcoco
from benchmarks_choice import mmbench, mmmu, scienceqa, seed_bench
from benchmarks_judged import llava_bench, mmvet
from benchmarks_open import gqa, mme, pope, textvqa, vizwiz, vqav2
from make_data import make_pope, make_vqa

MARK = ".miniature"
Maker = Callable[[Places, Sequence[Picture], int, np.random.Generator], None]


def embedded(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """Questions of `tiny_vqa` and `tiny_pope`, which have no suffix and are not on the Hub."""
    names = [f"mini_{index:05d}.png" for index in range(len(pictures))]
    digits = [picture.digits for picture in pictures]
    for name, picture in zip(names, pictures, strict=True):
        places.content(f"images/{name}", picture.encoded(".png"))
    places.json("eval_vqa.json", make_vqa(digits, names, size, rng))
    places.json("eval_pope.json", make_pope(digits, names, size, list(range(10)), rng))


MAKERS: dict[str, Maker] = {
    "embedded": embedded,
    "chartqa": chartqa,
    "gqa": gqa,
    "llava_bench": llava_bench,
    "mmbench": mmbench,
    "mme": mme,
    "mmmu": mmmu,
    "mmstar": mmstar,
    "mmvet": mmvet,
    "ocrbench": ocrbench,
    "pope": pope,
    "refcoco": refcoco,
    "scienceqa": scienceqa,
    "seed_bench": seed_bench,
    "textvqa": textvqa,
    "vizwiz": vizwiz,
    "vqav2": vqav2,
}


def empty(folder: Path) -> None:
    """Makes a folder empty, if it is ours.

    Raises:
        SystemExit: It holds something else.
    """
    if folder.exists() and not (folder / MARK).exists() and any(folder.iterdir()):
        raise SystemExit(f"error: {folder} holds files that this script has not written; name an empty folder")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).touch()


def main() -> None:
    """Makes pictures and questions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="root of the local layout; emptied first")
    parser.add_argument("--parquet", type=Path, help="folder for the same questions as the Hub's tables")
    parser.add_argument("--size", type=int, default=24, help="questions of a benchmark, more or less (default 24)")
    parser.add_argument("--scenes", type=int, default=24, help="held-out scenes that they are about (default 24)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.size < 6 or arguments.scenes < 2:
        parser.error(f"--size must be at least 6 and --scenes 2, got {arguments.size} and {arguments.scenes}")
    places = Places(arguments.output, arguments.parquet)
    for folder in filter(None, (places.local, places.hub)):
        empty(folder)
    pictures = make_pictures(arguments.scenes, arguments.seed)
    for name, make in MAKERS.items():
        make(places, pictures, arguments.size, np.random.default_rng([arguments.seed, zlib.crc32(name.encode())]))
    print(f"written: {os.path.relpath(arguments.output)}")


if __name__ == "__main__":
    main()
