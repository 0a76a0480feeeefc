"""Trains the vision tower of the crowded world; how, see `tower.py`."""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    """Reads the flags; a tower that is there already stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--world", choices=("first", "second"), default="first")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--save-every", type=int, default=250)
    arguments = parser.parse_args()
    if (arguments.output / "tower" / "model.safetensors").exists():
        print(f"The tower is there already: {arguments.output / 'tower'}")
        return
    from playground.crowded import tower  # takes seconds, which --help need not

    tower.pretrain(arguments)


if __name__ == "__main__":
    main()
