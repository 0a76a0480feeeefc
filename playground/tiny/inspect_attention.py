"""Shows where the attention of layer -2 goes, which is what VisionZip chooses by: figures, and a picture.

python playground/tiny/inspect_attention.py --tower "$WORK/tower" --picture attention.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tower", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    sys.path.append(str(Path(__file__).resolve().parents[2]))  # for playground.pretraining
    import attention  # takes seconds, which --help need not

    attention.inspect(arguments)


if __name__ == "__main__":
    main()
