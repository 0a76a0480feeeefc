"""A projector alone on disk: `mm_projector.safetensors` with LLaVA's names, and the config it was tuned for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from llava.model.checkpoints.files import CheckpointError, projector_file, read_tensors
from llava.model.checkpoints.names import PROJECTOR_NAMES, to_file_names, to_module_names, unwrapped
from llava.model.llava_config import entries_without_place

PROJECTOR_FILE = "mm_projector.safetensors"
_OWN = ("model.multi_modal_projector.", "model.image_newline")


def save_projector(
    model: Any,
    directory: str | Path,
    *,
    base_model: str | Path | None = None,
    state: Mapping[str, Tensor] | None = None,
    newline: bool = False,
) -> Path:
    """Writes the projector and the model's config, its compression included.

    Args:
        model: One of this package's models.
        directory: Made if need be.
        base_model: What the projector was tuned on; `load_pretrained_model` takes it where no `model_base` is given.
        state: The module's whole or partial state dict, if it must be gathered first (ZeRO-3); else the model's own.
        newline: Write LLaVA-NeXT's row separator too, if the model has one.

    Returns:
        The file of the projector.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = state if state is not None else model.state_dict()
    written = _OWN if newline else _OWN[:1]
    own = {name: value for name, value in tensors.items() if name.startswith(written)}
    named = to_file_names(own, PROJECTOR_NAMES, tower="")
    save_file({name: value.detach().cpu().contiguous() for name, value in named.items()}, folder / PROJECTOR_FILE)

    entries = entries_without_place(model.config)
    entries["architectures"] = [type(model).__name__]
    if base_model is not None:
        entries["base_model_name_or_path"] = str(base_model)
    text = json.dumps(entries, indent=2, sort_keys=True, default=str)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    return folder / PROJECTOR_FILE


def read_projector(folder_or_file: str | Path) -> dict[str, Tensor]:
    """Reads a projector, ours or LLaVA's `mm_projector.bin`.

    Returns:
        Its tensors by the module's names (`model.multi_modal_projector.*`, and `model.image_newline` if it is there).

    Raises:
        CheckpointError: There is none, or the file holds other tensors than a projector's.
    """
    path = Path(folder_or_file)
    file = projector_file(path) if path.is_dir() else path
    if file is None or not file.is_file():
        raise CheckpointError(f"{path}: there is no {PROJECTOR_FILE} and no mm_projector.bin")
    state = to_module_names(unwrapped(read_tensors([file])), PROJECTOR_NAMES, tower="")
    foreign = sorted(name for name in state if not name.startswith(_OWN))
    if foreign or not any(name.startswith(_OWN[0]) for name in state):
        raise CheckpointError(f"{file}: not a two-layer projector; unexpected tensors: {', '.join(foreign) or 'none'}")
    return state
