"""The config of a checkpoint of any sort, without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llava.model.checkpoints.config_adapter import read_config
from llava.model.checkpoints.files import CheckpointError, resolve_checkpoint
from llava.model.checkpoints.lora import adapter_base, is_adapter


def config_of(model_path: str | Path, model_base: str | Path | None = None) -> Any:
    """The config that the model will have.

    Args:
        model_path: A folder, or a repository on the Hub, of which only the small files are fetched.
        model_base: What an adapter without a config of its own goes on; by default what it names.

    Raises:
        CheckpointError: There is no such checkpoint, or its config is not one of a LLaVA.
    """
    folder = resolve_checkpoint(model_path, weights=False)
    if is_adapter(folder) and not (folder / "config.json").exists():
        base = model_base or adapter_base(folder)
        if base is None:
            raise CheckpointError(f"{folder}: the adapter names no base; give --model-base")
        folder = resolve_checkpoint(base, weights=False)
    return read_config(folder)[0]
