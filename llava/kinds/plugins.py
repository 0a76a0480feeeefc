"""Plug-ins: modules or files from outside this package that register kinds of their own.

They are named by `--plugin MODULE_OR_FILE`, by the variable `LLAVA_PLUGINS` (separated by commas), or by the entry
points `llava.plugins` of an installed package. Commands load all of them as they start; a program loads the last two
when a name is looked up that is not known yet.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from pathlib import Path
from threading import RLock
from typing import Any

from llava.kinds.own_files import own_files
from llava.plain_files import expanded

logger = logging.getLogger(__name__)

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
        sha256: Of its code when it was last imported, the first 16 digits; empty where there is no file.
        modules: The module, and what it imports of the same package or of its author's other files.
    """

    name: str
    module: str
    sha256: str
    modules: tuple[str, ...]


_LOCK = RLock()  # held while a plug-in is imported: another thread that asks for a name waits for it
_LOADED: dict[str, Plugin] = {}
_IMPORTING: set[str] = set()
_DISCOVERED: list[str] = []  # what has been looked through: the variable's text, the entry points
_FILES: dict[str, Path] = {}  # by the names of modules
_ON_FAILURE: list[Callable[[str], None]] = []


class _PluginFiles:
    """Finds plug-in files by their module's name, so that `importlib.reload` and pickles do."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """As Python's import asks it."""
        file = _FILES.get(name)
        return None if file is None else importlib.util.spec_from_file_location(name, file)


def load_plugins(named: Iterable[str | Path]) -> list[Plugin]:
    """Imports plug-ins, each once.

    Args:
        named: Modules (`my_package.methods`) or files (`methods/mine.py`).

    Raises:
        PluginError: One does not exist, or fails while it is imported.
    """
    with _LOCK:
        found = [_load(text) for text in (str(name).strip() for name in named) if text]
    return [plugin for plugin in found if plugin is not None]


def loaded_plugins() -> list[Plugin]:
    """The plug-ins of this process, in the order in which they were loaded."""
    return list(_LOADED.values())


def plugin_records() -> list[dict[str, str]]:
    """The same for results, cards and run keys: `name` and `sha256` of each."""
    return [{"name": plugin.name, "sha256": plugin.sha256} for plugin in loaded_plugins()]


def plugin_of(module: str) -> Plugin | None:
    """The plug-in that a module belongs to, None for a module of this package or of the user's own program."""
    for plugin in _LOADED.values():
        if module in plugin.modules or module.startswith(f"{plugin.module}."):
            return plugin
    return None


def note_reload(module: str) -> None:
    """Notes that a module is imported anew: what it makes is known by its new content."""
    for key, plugin in list(_LOADED.items()):
        if module in plugin.modules:
            _LOADED[key] = _described(plugin.name, plugin.module)


def on_failure(forget: Callable[[str], None]) -> None:
    """Has a function called with the name of each module that fails while it is imported as a plug-in."""
    _ON_FAILURE.append(forget)


def discover_plugins() -> bool:
    """Loads what `LLAVA_PLUGINS` and installed packages name, unless that is done.

    A package whose plug-in cannot be loaded is warned about once, so that it does not stop other commands.

    Returns:
        Whether anything new was loaded.

    Raises:
        PluginError: One of `LLAVA_PLUGINS` cannot be loaded; it is raised each time.
    """
    with _LOCK:
        before = len(_LOADED)
        given = os.environ.get(VARIABLE, "")
        if given not in _DISCOVERED:
            _DISCOVERED.append(given)
            try:
                load_plugins(given.split(","))
            except BaseException:
                _DISCOVERED.remove(given)
                raise
        if ENTRY_POINTS not in _DISCOVERED:
            _DISCOVERED.append(ENTRY_POINTS)
            for point in entry_points(group=ENTRY_POINTS):
                try:
                    load_plugins([point.value.partition(":")[0]])
                except PluginError as error:
                    logger.warning("the entry point %s is left out: %s", point.name, error)
        return len(_LOADED) > before


def _load(text: str) -> Plugin | None:
    """The plug-in; None while it is being imported, for its own code may look names up."""
    is_file = text.endswith(".py") or os.sep in text
    key = str(expanded(text).resolve()) if is_file else text
    if key in _IMPORTING:
        return None
    if key not in _LOADED:
        _IMPORTING.add(key)
        name = text
        try:
            if is_file:
                name = _name_file(Path(key))
            elif not all(part.isidentifier() for part in text.split(".")):
                raise PluginError(
                    f"plug-in {text}: name a Python file that ends in .py, or a module by its dotted name"
                )
            module = importlib.import_module(name)
        except PluginError:
            raise
        except (Exception, SystemExit) as error:  # whatever the plug-in's own code raises
            for forget in _ON_FAILURE:
                forget(name)
            raise PluginError(f"plug-in {text}: {type(error).__name__}: {error}") from error
        finally:
            _IMPORTING.discard(key)
        _LOADED[key] = _described(Path(key).name if is_file else text, module.__name__)
    return _LOADED[key]


def _name_file(file: Path) -> str:
    """Gives a plug-in file a module's name, under which it can be imported."""
    if not file.is_file() or file.suffix != ".py":
        problem = "no Python file" if file.exists() else "there is no such file"
        raise PluginError(f"plug-in {file}: {problem}; name a file that ends in .py, or a module by its dotted name")
    name = _FILE_PREFIX + re.sub(r"\W", "_", file.stem)
    if _FILES.setdefault(name, file) != file:
        if name in sys.modules:
            raise PluginError(f"plug-in {file}: {_FILES[name]} is called {file.name} too; rename one of them")
        _FILES[name] = file
    if _PluginFiles not in sys.meta_path:
        sys.meta_path.append(_PluginFiles)
    if str(file.parent) not in sys.path:  # files beside it can be imported, as beside a program
        sys.path.append(str(file.parent))
    return name


def _described(name: str, module: str) -> Plugin:
    files = own_files(module)
    digest = hashlib.sha256()
    for content in sorted(file.read_bytes() for file in files.values()):
        digest.update(content)
    return Plugin(name, module, digest.hexdigest()[:16] if files else "", tuple(dict.fromkeys((module, *files))))
