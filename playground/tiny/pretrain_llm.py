"""Makes the tokenizer and pre-trains the small Llama on text alone; how, see `../pretraining`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    """Reads the flags; a language model that is there already stays."""
    sys.path.append(str(Path(__file__).resolve().parents[2]))  # for playground.pretraining
    from playground.pretraining.plan import read_plan

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vocab", type=int, default=640)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument(
        "--plan", type=read_plan, default="questions:300,talks:300", help="lessons and steps (default %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--short-batch", type=int, default=192)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=200)
    arguments = parser.parse_args()
    if (arguments.output / "llm" / "model.safetensors").exists():
        print(f"The language model is there already: {arguments.output / 'llm'}")
        return
    from questions import CAPTION_PROMPT
    from talks import compose

    from playground.pretraining import language_model  # takes seconds, which --help need not

    language_model.pretrain(arguments, compose, CAPTION_PROMPT)


if __name__ == "__main__":
    main()
