"""Which file an image's name means: it lies inside a folder as it is written; what it names may be a link."""

from __future__ import annotations

import os
from pathlib import Path


def path_inside(root: str | Path, name: str) -> Path:
    """The path of a file that data name inside a folder.

    The name is judged as it is written, `a/./b` and `a/../b` made short first. Links are not followed: the Hub's cache
    consists of links, and people link folders of images into one root.

    Args:
        root: The folder; `/` takes any absolute name.
        name: Relative to the folder, without a `..` that leaves it, or absolute inside of it.

    Returns:
        The folder and the rest of the name, the same for a relative and an absolute name of one file. It need not be
        there.

    Raises:
        ValueError: The name is no file name, or leaves the folder; says which.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"{name!r:.200} is no file name")
    if "\0" in name or not _is_text(name):
        raise ValueError(f"{name!r:.200} is no file name: no file system takes its characters")
    if not Path(name).is_absolute():
        inside = os.path.normpath(name)
        if not _stays(inside):
            raise ValueError(f"{name!r:.200} leaves {root}: a name must not go up with '..'")
        return Path(root, inside)
    for base in (Path(root).absolute(), Path(root).resolve()):
        if Path(name).drive == base.drive and _stays(inside := os.path.relpath(name, base)):
            return Path(root, inside)
    raise ValueError(f"{name!r:.200} lies outside {root}")


def _stays(relative: str) -> bool:
    """Whether a short relative path stays in its folder, and is not the folder itself."""
    return relative != os.curdir and Path(relative).parts[0] != os.pardir


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
