"""What programs for LLaVA import from `llava.utils`."""

from __future__ import annotations


def disable_torch_init() -> None:
    """Does nothing, and need not: weights are never initialised before a checkpoint is loaded into them.

    LLaVA's function of this name replaces torch's initialisers for the whole process; nothing here does such a thing.
    """
