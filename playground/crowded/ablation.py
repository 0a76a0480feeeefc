"""Tunes the projector in several ways, three seeds each, and measures all of them on dev (or, at last, on test).

    python -m playground.crowded.ablation                       # all variants, resumable; about an hour on two cores
    python -m playground.crowded.ablation --variants coverage,coverage-distilled --seeds 1
    python -m playground.crowded.ablation --split test --variants visionzip,coverage-...   # final ones only

Every tuning is one run of `scripts/v1_5/visionzip_tune.sh`; what is done is skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from playground.crowded.freeze import HERE, WEIGHTS, sha256

REPOSITORY = HERE.parents[1]
TUNING = {"FRACTION": "0.3", "EPOCHS": "1", "LR": "1e-3", "GLOBAL_BATCH": "32", "BATCH": "32", "WARMUP": "0.03"}
TUNING |= {"VERSION": "v1", "ASPECT": "pad", "MAX_LENGTH": "1024", "BF16": "False", "CPU": "True"}
TUNING |= {"CHECKPOINTING": "False", "WORKERS": "0", "SCHEDULER": "cosine", "WEIGHT_DECAY": "0."}
TUNING |= {"SAVE_STEPS": "250", "SAVE_LIMIT": "1", "LOG_STEPS": "10", "REPORT_TO": "none"}
TUNING |= {"LAUNCHER": "python", "LAUNCHER_ARGS": "", "DEEPSPEED_CONFIG": ""}  # one process, without DeepSpeed
TUNING |= dict.fromkeys(("RECIPE", "HARDWARE", "SIZE", "TOKENS", "LLM", "TOWER", "PROJECTOR", "EVAL_DATA"), "")
TUNING |= dict.fromkeys(("COMPRESSION_SCHEDULE", "COMPRESSION_START", "COMPRESSION_SHARE", "COMPRESSION_DRAW"), "")
TUNING |= dict.fromkeys(("DISTILL_FROM", "DISTILL_WEIGHT", "DISTILL_TEMPERATURE", "DISTILL_TEACHER"), "")
TUNING |= {"FP16": "", "DRY_RUN": ""}  # an empty variable is one that is not set


@dataclass(frozen=True)
class Variant:
    """A way to tune.

    Attributes:
        compression: What the projector is tuned for, and measured with.
        flags: Of the training beside it.
    """

    compression: str
    flags: Mapping[str, str] = field(default_factory=dict)


RISING = {"compression_schedule": "cosine", "compression_share": "0.5"}
DISTILLED = {"distill_from": "none"}
DRAWN = {"compression_draw": "20-98"}
VARIANTS = {
    "visionzip": Variant("visionzip:17+3"),
    "coverage": Variant("coverage:20"),
    "coverage-rising": Variant("coverage:20", RISING),
    "coverage-distilled": Variant("coverage:20", DISTILLED),
    "coverage-drawn": Variant("coverage:20", DRAWN),
    "visionzip-distilled": Variant("visionzip:17+3", DISTILLED),
    "divprune": Variant("divprune:20"),
}


def main() -> int:
    """Tunes and measures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=("first", "second"), default="first")
    parser.add_argument("--data", type=Path, help="default: data/WORLD beside this file")
    parser.add_argument("--model", type=Path, help="default: model/WORLD beside this file")
    parser.add_argument("--out", type=Path, help="of the tuned projectors; default: out/WORLD beside this file")
    parser.add_argument("--results", type=Path, help="of the answers; default: results/WORLD/SPLIT beside this file")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--variants", default=",".join(VARIANTS), help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", nargs="*", default=[], help="further budgets to measure each projector with")
    given = parser.parse_args()
    chosen = given.variants.split(",")
    unknown = sorted(set(chosen) - set(VARIANTS))
    if unknown:
        parser.error(f"--variants: no {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    if given.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {given.seeds}")
    given.data = given.data or HERE / "data" / given.world
    given.model = given.model or HERE / "model" / given.world
    given.out = given.out or HERE / "out" / given.world
    given.results = given.results or HERE / "results" / given.world / given.split
    for seed in range(given.seeds):
        for name in chosen:
            projector = tune(name, seed, given)
            for budget in (VARIANTS[name].compression, *given.budgets):
                measure(name, budget, seed, projector, given)
    return 0


def tune(name: str, seed: int, given: argparse.Namespace) -> Path:
    """Tunes one projector, unless it is there; returns its folder.

    Raises:
        ValueError: What is there was tuned in another way, or on another model.
    """
    variant, folder = VARIANTS[name], given.out / f"{name}.seed{seed}"
    finished = folder / ".finished"
    asked = {"compression": variant.compression, "flags": dict(variant.flags), "tuning": TUNING, "seed": 42 + seed}
    asked |= {"model": sha256(given.model / file for file in WEIGHTS), "train": sha256([given.data / "train.json"])}
    if finished.exists():
        if json.loads(finished.read_text()).get("asked") != asked:
            raise ValueError(f"{folder}: tuned in another way or on another model; remove it or give another --out")
        return folder
    environment = {
        "CKPT": str(given.model),
        "DATA": str(given.data / "train.json"),
        "IMAGES": str(given.data / "images"),
        "OUTPUT": str(folder),
        "COMPRESSION": variant.compression,
        "SEED": str(42 + seed),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    flags = [part for flag, value in variant.flags.items() for part in (f"--{flag}", value)]
    command = ["bash", str(REPOSITORY / "scripts/v1_5/visionzip_tune.sh"), *flags]
    begin = time.monotonic()
    subprocess.run(command, env=os.environ | TUNING | environment, cwd=REPOSITORY, check=True)
    seconds = round(time.monotonic() - begin)
    finished.write_text(json.dumps({"seconds": seconds, "asked": asked}) + "\n")
    return folder


def measure(name: str, budget: str, seed: int, projector: Path, given: argparse.Namespace) -> None:
    """Asks the split with a tuned projector; `measure.py` knows what is there."""
    command = [sys.executable, "-m", "playground.crowded.measure", budget, "--split", given.split]
    command += ["--world", given.world, "--data", str(given.data), "--model", str(given.model)]
    command += ["--results", str(given.results)]
    command += ["--projector", str(projector), "--name", tuned_name(name, budget), "--seed", str(seed)]
    subprocess.run(command, cwd=REPOSITORY, check=True)


def tuned_name(name: str, budget: str) -> str:
    """What a tuned method is called under a budget, which need not be of the method that it was tuned for."""
    method, _, size = budget.partition(":")
    is_own = method == VARIANTS[name].compression.partition(":")[0]
    return f"{name} (tuned):{size}" if is_own else f"{name} (tuned) under {budget}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(map(str, error.cmd))} failed with exit status {error.returncode}; run again to go on")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command goes on from here")
