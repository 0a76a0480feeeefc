"""Trains a LLaVA: `python -m llava.train.train --model_name_or_path ... --data_path ... --output_dir ...`.

What does it is in `llava.train.run`, which takes seconds to import; `--help` does without.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llava.train.help import print_help_if_asked
from llava.train.quiet import drop_notes

if TYPE_CHECKING:
    from llava.train.arguments import TrainingArguments
    from llava.train.trainer import LlavaTrainer


def train(argv: Sequence[str] | None = None, attn_implementation: str | None = None) -> LlavaTrainer:
    """Runs the stage that the flags ask for; see `llava.train.run.train`."""
    from llava.train import run

    return run.train(argv, attn_implementation)


def main(choose_attention: Callable[[TrainingArguments], str] | None = None) -> None:
    """The command line: a mistake in flags, checkpoint or data ends in one line.

    Args:
        choose_attention: Names the language model's attention, unless `--attn_implementation` does.
    """
    print_help_if_asked(sys.argv[1:])
    drop_notes()
    try:
        from llava.train import run
    except KeyboardInterrupt:
        print("\nstopped before anything was read", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None

    run.main(choose_attention)


if __name__ == "__main__":
    main()
