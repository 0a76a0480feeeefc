"""What programs for LLaVA import from `llava.utils`."""

from __future__ import annotations


def disable_torch_init() -> None:
    """Does nothing, and need not: weights are never initialised before a checkpoint is loaded into them.

    LLaVA's function of this name replaces torch's initialisers for the whole process; nothing here does such a thing.
    """


def get_model_name_from_path(model_path: str) -> str:
    """Return the last part of a path, with its parent's for a trainer's `checkpoint-*` folder.

    It names answer files and models in reports; nothing is decided by it.
    """
    parts = model_path.strip("/").split("/")
    return "_".join(parts[-2:]) if parts[-1].startswith("checkpoint-") else parts[-1]
