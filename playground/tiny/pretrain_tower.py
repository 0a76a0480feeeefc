"""Trains the small vision tower, CLIP with a CLS token or SigLIP without; how, see `tower.py`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    """Reads the flags; a tower that is there already stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--kind", choices=("clip", "siglip"), default="clip")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of steps")
    parser.add_argument("--save-every", type=int, default=250)
    arguments = parser.parse_args()
    sys.path.append(str(Path(__file__).resolve().parents[2]))  # for playground.pretraining
    if (arguments.output / "tower" / "model.safetensors").exists():
        print(f"The tower is there already: {arguments.output / 'tower'}")
        return
    import tower  # takes seconds, which --help need not

    tower.pretrain(arguments)


if __name__ == "__main__":
    main()
