"""What a run says when it ends: what it was trained on, where the result is, and what to do with it next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def closing_words(
    output_dir: str, num_used: int, num_samples: int, steps: int, *, was_finished: bool, plugins: Sequence[str] = ()
) -> str:
    """The last lines of a run.

    Args:
        output_dir: Of the run.
        num_used: Samples that were trained on.
        num_samples: Of the whole data.
        steps: Optimizer steps.
        was_finished: The run had ended before, and nothing was trained this time.
        plugins: As `--plugin` named them; who loads the result needs them too.
    """
    folder = shlex.quote(output_dir)
    scores = shlex.quote(f"runs/{Path(output_dir).name}")
    exported = shlex.quote(f"{output_dir}-hf")
    with_plugins = "".join(f" --plugin {shlex.quote(plugin)}" for plugin in plugins)
    begin = "already complete: " if was_finished else ""
    return "\n".join(
        [
            f"{begin}trained on {num_used} of {num_samples} samples in {steps} steps; the result is in {output_dir}",
            "next:",
            f"    llava ask --model-path {folder} --image-file IMAGE --query QUESTION{with_plugins}",
            f"    llava eval --model-path {folder} --tasks all --output-dir {scores}{with_plugins}",
            f"    llava export {folder} --to hf --output-dir {exported}{with_plugins}",
        ]
    )
