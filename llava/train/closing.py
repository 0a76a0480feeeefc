"""What a run says when it ends: what it was trained on, where the result is, and what to do with it next."""

from __future__ import annotations

import shlex
from pathlib import Path


def closing_words(output_dir: str, num_used: int, num_samples: int, steps: int, *, was_finished: bool) -> str:
    """The last lines of a run.

    Args:
        output_dir: Of the run.
        num_used: Samples that were trained on.
        num_samples: Of the whole data.
        steps: Optimizer steps.
        was_finished: The run had ended before, and nothing was trained this time.
    """
    folder = shlex.quote(output_dir)
    name = Path(output_dir).name
    begin = "already complete: " if was_finished else ""
    return "\n".join(
        [
            f"{begin}trained on {num_used} of {num_samples} samples in {steps} steps; the result is in {output_dir}",
            "next:",
            f"    llava ask --model-path {folder} --image-file IMAGE --query QUESTION",
            f"    llava eval --model-path {folder} --tasks all --output-dir {shlex.quote(f'runs/{name}')}",
            f"    llava export {folder} --to hf --output-dir {shlex.quote(f'{output_dir}-hf')}",
        ]
    )
