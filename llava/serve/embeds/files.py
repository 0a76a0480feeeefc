"""A question for an engine's Python interface, as a file: tensors in safetensors, all else as JSON in its header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

HEADER = "question"
"""The entry of the header; its text is JSON."""


def save_question(path: str | Path, tensors: Mapping[str, Tensor], entries: Mapping[str, Any]) -> None:
    """Writes a file, which appears when it is whole.

    Args:
        path: To write to.
        tensors: By name; on the CPU.
        entries: What JSON can hold.

    Raises:
        OSError: It cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        own = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(own, part, {HEADER: json.dumps(dict(entries))})
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def images_by_name(features: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """(K_i, D) of each image under the names `image_0`, `image_1`, ..."""
    return {f"image_{number}": rows for number, rows in enumerate(features)}
