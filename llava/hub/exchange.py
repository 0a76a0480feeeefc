"""Two folders change places at once, where the system can do that."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_FROM_HERE = -100  # AT_FDCWD of fcntl.h: paths are as they stand
_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h


def exchange(first: Path, second: Path) -> bool:
    """Gives each of two folders the other's name, in one step that nothing can interrupt (Linux's `renameat2`).

    Returns:
        Whether it was done; False where the system or the file system has no such step, and nothing was changed.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # another libc, or another system
        return False
    return bool(rename(_FROM_HERE, os.fsencode(first), _FROM_HERE, os.fsencode(second), _EXCHANGE) == 0)
