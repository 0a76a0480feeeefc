"""Makes the tokenizer of the crowded world and pre-trains the small Llama on text alone; how, see `../pretraining`."""

from __future__ import annotations

import argparse
from pathlib import Path

from playground.pretraining.plan import read_plan


def main() -> None:
    """Reads the flags; a language model that is there already stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--world", choices=("first", "second"), default="first")
    parser.add_argument("--vocab", type=int, default=800)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument(
        "--plan",
        type=read_plan,
        default="captions:900,questions:700,talks:400",
        help="lessons and their steps (default %(default)s)",
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--short-batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=200)
    arguments = parser.parse_args()
    if (arguments.output / "llm" / "model.safetensors").exists():
        print(f"The language model is there already: {arguments.output / 'llm'}")
        return
    from playground.crowded.questions import CAPTION_PROMPT
    from playground.crowded.talks import composer
    from playground.pretraining import language_model  # takes seconds, which --help need not

    language_model.pretrain(arguments, composer(arguments.world), CAPTION_PROMPT)


if __name__ == "__main__":
    main()
