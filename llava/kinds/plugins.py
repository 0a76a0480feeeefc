"""Plug-ins: modules or files from outside this package that register kinds of their own.

They are named by `--plugin MODULE_OR_FILE`, by the variable `LLAVA_PLUGINS`, or by the entry points `llava.plugins` of
an installed package. The first are loaded at once, the others when a name is looked up that is not known yet.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

VARIABLE = "LLAVA_PLUGINS"
ENTRY_POINTS = "llava.plugins"
_FILE_PREFIX = "llava_plugin_"


class PluginError(ValueError):
    """A plug-in cannot be loaded; the message names it and says why."""


@dataclass(frozen=True)
class Plugin:
    """A plug-in that is loaded.

    Attributes:
        name: A module's dotted name, or a file's name without its folder, so that no local path is published.
        module: The name under which Python knows it.
        sha256: Of the module's file, the first 16 digits; empty where there is no file.
    """

    name: str
    module: str
    sha256: str


_LOADED: dict[str, Plugin] = {}
_IMPORTING: set[str] = set()
_DISCOVERED: list[str] = []  # what has been looked through: the variable's text, the entry points


def load_plugins(named: Iterable[str]) -> list[Plugin]:
    """Imports plug-ins, each once.

    Args:
        named: Modules (`my_package.methods`) or files (`methods/mine.py`).

    Raises:
        PluginError: One does not exist, or fails while it is imported.
    """
    found = [_load(text.strip()) for text in named if text.strip()]
    return [plugin for plugin in found if plugin is not None]


def loaded_plugins() -> list[Plugin]:
    """The plug-ins of this process, in the order in which they were loaded."""
    return list(_LOADED.values())


def plugin_records() -> list[dict[str, Any]]:
    """The same for results, cards and run keys: `name` and `sha256` of each."""
    return [{"name": entry["name"], "sha256": entry["sha256"]} for entry in map(asdict, loaded_plugins())]


def plugin_of(module: str) -> Plugin | None:
    """The plug-in that a module belongs to, None for a module of this package or of the user's own program."""
    return next(
        (found for found in _LOADED.values() if module == found.module or module.startswith(f"{found.module}.")), None
    )


def discover_plugins() -> bool:
    """Loads what `LLAVA_PLUGINS` and installed packages name, unless that is done.

    Returns:
        Whether anything new was loaded.

    Raises:
        PluginError: One cannot be loaded.
    """
    before = len(_LOADED)
    given = os.environ.get(VARIABLE, "")
    _once(given, lambda: given.replace(os.pathsep, ",").split(","))
    _once(ENTRY_POINTS, lambda: [point.value.partition(":")[0] for point in entry_points(group=ENTRY_POINTS)])
    return len(_LOADED) > before


def _once(source: str, named: Callable[[], Iterable[str]]) -> None:
    """Loads what a source names, unless that is done or under way; what fails is tried again next time."""
    if source in _DISCOVERED:
        return
    _DISCOVERED.append(source)
    try:
        load_plugins(named())
    except BaseException:
        _DISCOVERED.remove(source)
        raise


def _load(text: str) -> Plugin | None:
    """The plug-in; None while it is being imported, for its own code may look names up."""
    is_file = text.endswith(".py") or os.sep in text
    key = str(Path(text).expanduser().resolve()) if is_file else text
    if key in _IMPORTING:
        return None
    if key not in _LOADED:
        _IMPORTING.add(key)
        try:
            module = _import_file(Path(key)) if is_file else importlib.import_module(text)
        except PluginError:
            raise
        except Exception as error:  # whatever the plug-in's own code raises
            raise PluginError(f"plug-in {text}: {type(error).__name__}: {error}") from error
        finally:
            _IMPORTING.discard(key)
        _LOADED[key] = Plugin(Path(key).name if is_file else text, module.__name__, _digest(module))
    return _LOADED[key]


def _import_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise PluginError(f"plug-in {file}: there is no such file; name a Python file, or a module by its dotted name")
    name = _FILE_PREFIX + file.stem
    known = sys.modules.get(name)
    if known is not None:
        raise PluginError(
            f"plug-in {file}: another plug-in file is called {file.name} too ({known.__file__}); rename one"
        )
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # true of every existing .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # worker processes and pickles find it by its name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _digest(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""
