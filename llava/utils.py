"""What programs for LLaVA import from `llava.utils`, and how messages show what others wrote."""

from __future__ import annotations

_LONGEST_NAME = 200  # characters


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


def shown(text: str, longest: int = _LONGEST_NAME) -> str:
    """A name or a text of others for a message: shortened in its middle, `?` for what a terminal would obey."""
    if len(text) > longest:
        text = f"{text[: longest // 2]}...{text[-longest // 2 :]}"
    return "".join(character if character.isprintable() else "?" for character in text)
