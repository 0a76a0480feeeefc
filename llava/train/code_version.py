"""Which code a run was made with."""

from __future__ import annotations

import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import llava

_DISTRIBUTION = "llava-visionzip"
_PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "deepspeed", "peft", "bitsandbytes", "flash-attn")


@lru_cache
def code_version() -> dict[str, Any]:
    """The commit of the checkout that runs, or else the installed version, and the versions of what it rests on.

    Returns:
        `version` of this package; `commit` and `modified` (tracked files differ from it), both None outside a checkout
        or without git; `python`; `packages`, those that are installed by name.
    """
    root = Path(llava.__file__).resolve().parents[1]
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {
        "version": _version(_DISTRIBUTION),
        "commit": _git(root, "rev-parse", "HEAD"),
        "modified": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
    }


def _git(root: Path, *command: str) -> str | None:
    if not (root / ".git").exists():  # an installed package may lie inside a repository that is not its own
        return None
    try:
        words = ["git", "-C", str(root), *command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
