"""Which files a plug-in consists of."""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_OWN = "llava"


def own_files(module: str) -> dict[str, Path]:
    """The files of a plug-in's code: its module's, and those of the modules that it imports, over any number of steps.

    Installed packages, other than its own, and this package are left out: their versions are recorded elsewhere.

    Args:
        module: Name of a module that is imported already.

    Returns:
        Files by the names of their modules; empty where the module has none, as one typed at a prompt.
    """
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = getattr(sys.modules.get(name), "__file__", None)
        if name in found or not file or not file.endswith(".py") or not _is_own(name, Path(file), module):
            continue
        found[name] = Path(file)
        waiting += _imported(name, Path(file))
    return found


def _is_own(name: str, file: Path, plugin: str) -> bool:
    package = name.partition(".")[0]
    if package == plugin.partition(".")[0]:
        return True
    return package != _OWN and not any(file.resolve().is_relative_to(folder) for folder in _INSTALLED)


def _imported(name: str, file: Path) -> Iterator[str]:
    """Names of what a module imports; an attribute may be among them, which is no module and found nowhere."""
    package = getattr(sys.modules[name], "__package__", None) or ""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            parts = ([base] if node.level else []) + ([node.module] if node.module else [])
            source = ".".join(part for part in parts if part)
            yield from _with_parents(source)
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
    """`a`, `a.b` and `a.b.c` of `a.b.c`: importing the last runs them all."""
    parts = name.split(".")
    yield from (".".join(parts[: count + 1]) for count in range(len(parts)))
