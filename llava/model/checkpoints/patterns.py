"""Regular expressions that a checkpoint brings: only those that end soon on every name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from llava.entry_types import shown

_LONGEST = 500
_LONGEST_OF_TARGETS = 20_000  # a pattern that names every layer
_MOST_REPEATS = 6  # each costs a power of the length of a name
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[a-zA-Z]*[:=!>#]?|[()|]|[*+?]|\{\d*,?\d*\}|.", re.DOTALL)

# Entries of adapter_config.json that hold patterns: as keys, or as a value that is a text.
_BY_PATTERN = ("rank_pattern", "alpha_pattern")
_TARGETS = ("target_modules", "exclude_modules", "layers_pattern")


def wrong_pattern(config: dict[str, Any]) -> str | None:
    """What is wrong with the first pattern of an adapter's config that must not be tried.

    peft takes `rank_pattern` and `alpha_pattern` by keys, and `target_modules` and the like where they are texts.

    Args:
        config: Of an adapter_config.json.

    Returns:
        Entry, pattern and reason; None if all can be used.
    """
    given = [(entry, pattern, _LONGEST) for entry in _BY_PATTERN for pattern in config.get(entry) or {}]
    for entry in _TARGETS:
        if isinstance(config.get(entry), str):
            given.append((entry, config[entry], _LONGEST_OF_TARGETS))
    for entry, pattern, longest in given:
        problem = _problem(pattern, longest)
        if problem is not None:
            return f"{entry}: {shown(pattern)} is no pattern of layers: {problem}"
    return None


def _problem(pattern: str, longest: int) -> str | None:
    if len(pattern) > longest:
        return f"it has {len(pattern)} characters, and {longest} are the most"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return _slow(pattern)


@dataclass
class _Group:
    """An open group: the repeats of the alternative that is being read, and the most of those before it."""

    branches: bool = False
    repeats: int = 0
    most: int = 0

    def ends_alternative(self) -> int:
        """The most repeats of an alternative so far."""
        self.most, self.repeats = max(self.most, self.repeats), 0
        return self.most


def _slow(pattern: str) -> str | None:
    """Why a pattern can take long: a repeated group has repeats or alternatives inside, or there are many repeats."""
    groups, has_closed = [_Group()], False  # whether a group that branches has just ended
    for token in _TOKEN.findall(pattern):
        is_repeat = token[0] in "*+" or (token[0] == "{" and len(token) > 1)
        if is_repeat and has_closed:
            return "a group that repeats holds another repeat or alternatives"
        has_closed = False
        groups[-1].repeats += is_repeat
        groups[-1].branches |= is_repeat or token in ("?", "|")
        if token[0] == "(":
            groups.append(_Group())
        elif token == "|":
            groups[-1].ends_alternative()
        elif token == ")" and len(groups) > 1:
            inner = groups.pop()
            groups[-1].repeats += inner.ends_alternative()
            groups[-1].branches |= inner.branches
            has_closed = inner.branches
    repeats = groups[0].ends_alternative()
    return f"it repeats {repeats} times, and {_MOST_REPEATS} are the most" if repeats > _MOST_REPEATS else None


__all__ = ["wrong_pattern"]
