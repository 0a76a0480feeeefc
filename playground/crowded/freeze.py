"""Freezes a crowded world: writes the hashes of its generator, weights and splits, or checks that nothing has changed.

    python -m playground.crowded.freeze --world first            # once, before any candidate runs on it
    python -m playground.crowded.freeze --world first --check

What was asked of the world, and by what it was to be judged, stands in `hypotheses.md`, whose hash is among them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
GENERATOR = ("things.py", "backgrounds.py", "scenes.py", "questions.py", "make_data.py", "tower.py", "talks.py")
HYPOTHESES = "hypotheses.md"
WEIGHTS = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json")
SPLITS = ("dev", "test")
MAKES = "python -m playground.crowded.make_data --world {}"


def sha256(files: Iterable[Path]) -> str:
    """One hash of the names and bytes of some files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def frozen_parts(world: str, data: Path, model: Path | None = None) -> dict[str, str]:
    """The hash of everything that must stay as it is.

    Args:
        world: `first` or `second`.
        data: What `make_data.py` wrote for it; it is made anew from the generator.
        model: Its LLaVA; None for that beside this file.

    Raises:
        FileNotFoundError: A part is not there.
    """
    model = model or HERE / "model" / world
    parts = {"generator": sha256(HERE / name for name in GENERATOR), "hypotheses": sha256([HERE / HYPOTHESES])}
    parts["weights"] = sha256(model / name for name in WEIGHTS)
    for split in SPLITS:
        pictures = sorted((data / "images").glob(f"{split}_*.png"))
        parts[split] = sha256([data / f"eval_{split}.json", *pictures])
    parts["train"] = sha256([data / "train.json"])
    return parts


def changed_parts(world: str, data: Path, model: Path | None = None) -> list[str]:
    """Names of the parts that are not as they were frozen; all of them if the world is not frozen."""
    path = HERE / "frozen" / f"{world}.json"
    frozen = json.loads(path.read_text()) if path.exists() else {}
    return [name for name, value in frozen_parts(world, data, model).items() if frozen.get(name) != value]


def main() -> int:
    """Writes or checks; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=("first", "second"), default="first")
    parser.add_argument("--data", type=Path, help="default: data/WORLD beside this file")
    parser.add_argument("--check", action="store_true", help="change nothing; say what has changed")
    arguments = parser.parse_args()
    data = arguments.data or HERE / "data" / arguments.world
    path = HERE / "frozen" / f"{arguments.world}.json"
    try:
        changed = changed_parts(arguments.world, data)
    except FileNotFoundError as error:
        makes = "WORLD={} bash playground/crowded/pretrain.sh" if "model" in Path(error.filename).parts else MAKES
        sys.exit(f"{error.filename} is not there; {makes.format(arguments.world)}")
    if arguments.check and not path.exists():
        sys.exit(f"{arguments.world}: not frozen; {path} is not there")
    if arguments.check:
        print(f"{arguments.world}: {'changed: ' + ', '.join(changed) if changed else 'as it was frozen'}")
        return int(bool(changed))
    if path.exists() and changed:
        sys.exit(f"{path} is there, and {', '.join(changed)} changed since; a frozen world stays as it is")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(frozen_parts(arguments.world, data), indent=2) + "\n")
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
