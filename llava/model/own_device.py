"""Which GPU is a process's own, where a launcher has started several on one machine."""

from __future__ import annotations

import os

import torch


def own_device(named: str | None) -> str | None:
    """The device of this process among those of its machine.

    Args:
        named: What the user asked for; a GPU with a number, and what is no GPU, stay as they are.
    """
    local_rank = os.environ.get("LOCAL_RANK")
    if local_rank is None or named not in (None, "cuda") or not torch.cuda.is_available():
        return named
    return f"cuda:{int(local_rank) % torch.cuda.device_count()}"
