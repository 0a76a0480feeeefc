"""A registry: names to kinds of one sort, filled by this package, by plug-ins, and by a user's own program."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from threading import RLock
from typing import Any, Generic, TypeVar

from llava.kinds.plugins import discover_plugins, note_reload, on_failure, plugin_of

Kind = TypeVar("Kind")
_OWN = "llava."
_REPLACEABLE = "__main__"  # a cell of a notebook may run again


@dataclass(frozen=True)
class _Entry(Generic[Kind]):
    kind: Kind
    module: str
    spec: Any  # of the module at the time; a reload gives it a new one


class Registry(Generic[Kind]):
    """Kinds of one sort by name. A name belongs to one module, which replaces its own entry when it is reloaded."""

    def __init__(self, noun: str, *, builtin: Sequence[str] = ()) -> None:
        """Makes an empty one.

        Args:
            noun: What the entries are called in messages, such as `compression method`.
            builtin: Modules of this package that register entries; imported at the first look-up.
        """
        self.noun = noun
        self._builtin = list(builtin)
        self._lock = RLock()  # threads that prepare images may be the first to look something up
        self._entries: dict[str, _Entry[Kind]] = {}
        on_failure(self._forget)

    def register(self, name: str, kind: Kind, *, depth: int = 1) -> Kind:
        """Adds an entry.

        Args:
            name: Must be free, or have been given by the same module before it was reloaded.
            kind: The entry.
            depth: How many calls above this one the module stands that registers.

        Raises:
            ValueError: The name is taken.
        """
        frame = inspect.currentframe()
        for _ in range(depth):
            frame = frame.f_back if frame is not None else None
        scope = frame.f_globals if frame is not None else {}
        entry = _Entry(kind, str(scope.get("__name__")), scope.get("__spec__"))
        if not entry.module.startswith(_OWN):  # a name of this package's is taken, imported yet or not
            self.import_builtin()
        found = self._entries.get(name)
        if found is not None:
            is_new = found.spec is not entry.spec or entry.module == _REPLACEABLE
            if found.module != entry.module or not is_new:
                raise ValueError(
                    f"a {self.noun} named {name!r} is registered already, by {found.module}; choose another name"
                )
        outdated = [old for old, found in self._entries.items() if found.module == entry.module]
        outdated = [old for old in outdated if self._entries[old].spec is not entry.spec]
        if outdated:  # the module was reloaded: what it no longer registers is gone
            note_reload(entry.module)
        for old in outdated:
            del self._entries[old]
        self._entries[name] = entry
        return kind

    def get(self, name: str) -> Kind:
        """The entry of that name.

        Raises:
            ValueError: There is none; the message lists those there are.
            PluginError: A plug-in that might have it cannot be loaded.
        """
        found = self.find(name)
        if found is None:
            raise ValueError(
                f"unknown {self.noun} {name!r}; there are: {', '.join(self.names())}. One from outside this package "
                "comes with --plugin MODULE_OR_FILE, LLAVA_PLUGINS, or an import before it is asked for"
            )
        return found

    def find(self, name: str) -> Kind | None:
        """The entry of that name, or None."""
        self.import_builtin()
        if name not in self._entries:
            discover_plugins()
        entry = self._entries.get(name)
        return None if entry is None else entry.kind

    def names(self) -> list[str]:
        """All names, sorted."""
        self.import_builtin()
        discover_plugins()
        return sorted(self._entries)

    def __iter__(self) -> Iterator[Kind]:
        """All entries, by name."""
        return iter([self._entries[name].kind for name in self.names()])

    def first(self, fits: Callable[[Kind], bool]) -> Kind | None:
        """The first entry that fits, by name; plug-ins that are not loaded are looked through only where none does."""
        self.import_builtin()
        found = self._first(fits)
        return self._first(fits) if found is None and discover_plugins() else found

    def _first(self, fits: Callable[[Kind], bool]) -> Kind | None:
        kinds = (self._entries[name].kind for name in sorted(self._entries))
        return next((kind for kind in kinds if fits(kind)), None)

    def _forget(self, module: str) -> None:
        """Takes back what a module has registered that failed afterwards."""
        for name in [name for name, entry in self._entries.items() if entry.module == module]:
            del self._entries[name]

    def plugin_name(self, name: str) -> str | None:
        """The plug-in that an entry comes from; None for this package's own, and for one that no plug-in registered."""
        entry = self._entries.get(name)
        plugin = None if entry is None else plugin_of(entry.module)
        return None if plugin is None else plugin.name

    def import_builtin(self) -> None:
        """Imports this package's entries, as the first look-up does, which must not be inside a compiled graph."""
        if self._builtin:
            with self._lock:
                for module in tuple(self._builtin):
                    import_module(module)
                self._builtin.clear()
