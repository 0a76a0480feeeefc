"""Options of a method: what its frozen dataclass says of them, and the check of what a budget sets."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from llava.model.configuration import SHARED_OPTIONS, CompressionConfig


def check_options_class(name: str, options: type[Any] | None) -> None:
    """Refuses what cannot hold the options of a method.

    Raises:
        ValueError: It is no dataclass, or has a key that all methods share.
    """
    if options is None:
        return
    reserved = set(SHARED_OPTIONS) & {entry.name for entry in fields(options)} if is_dataclass(options) else set()
    if not is_dataclass(options) or reserved:
        problem = f"has {', '.join(sorted(reserved))}, which all methods share" if reserved else "is no dataclass"
        raise ValueError(f"compressor {name!r}: options={options!r} {problem}")


def typed_options(name: str, options: type[Any] | None, budget: CompressionConfig) -> Any:
    """The options that a budget sets, typed; None if the method has none.

    Args:
        name: Of the method.
        options: Its dataclass; None if it has no options.
        budget: Whose `options` are read.

    Raises:
        ValueError: An option is unknown, of another type, or out of range.
    """
    known = [] if options is None else [entry.name for entry in fields(options)]
    unknown = sorted(set(budget.options) - set(known))
    if unknown:
        raise ValueError(
            f"compression {budget}: {name} has no option {', '.join(unknown)}; it has: "
            f"{', '.join([*SHARED_OPTIONS, *known])}"
        )
    if options is None:
        return None
    typed = get_type_hints(options)
    for option, kind in typed.items():
        if option in budget.options and not _is_of(budget.options[option], kind):
            raise ValueError(f"compression {budget}: {option}={budget.options[option]!r} must be {_in_words(kind)}")
    given = {
        option: float(value) if typed.get(option) is float and isinstance(value, int) else value
        for option, value in budget.options.items()
    }
    try:
        return options(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"compression {budget}: {error}") from error


def describe_options(options: type[Any] | None) -> list[str]:
    """A line for each option: its name and default, and what the dataclass's docstring says of it, or else its kind."""
    if options is None:
        return []
    typed, said = get_type_hints(options), _documented(options.__doc__ or "")
    return [
        f"{entry.name}={_shown(entry.default)} ({_in_words(typed[entry.name])}): {said.get(entry.name, '')}".rstrip(
            ": "
        )
        for entry in fields(options)
    ]


def _documented(text: str) -> dict[str, str]:
    """Name -> text of the `Attributes:` of a docstring in Google style."""
    found: dict[str, str] = {}
    name = ""
    for line in text.partition("Attributes:")[2].splitlines():
        head, colon, rest = line.strip().partition(": ")
        if colon and head.isidentifier() and len(line) - len(line.lstrip()) <= 8:
            name = head
            found[name] = rest
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return found


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_of(value: Any, kind: Any) -> bool:
    """Whether an option's value has the type that its dataclass says; types that are not known here fit any."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return any(_is_of(value, one) for one in get_args(kind))
    if kind is tuple or get_origin(kind) is tuple:
        element = get_args(kind)[0] if get_args(kind) else Any
        return isinstance(value, tuple) and all(_is_of(part, element) for part in value)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return kind not in (bool, str, NoneType) or isinstance(value, kind)


def _in_words(kind: Any) -> str:
    """What an option must be, for a message."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_in_words(one) for one in get_args(kind) if one is not NoneType)
    if kind is tuple or get_origin(kind) is tuple:
        return "a list, such as 2/5, or 2/ of one value"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    return words.get(kind) or f"of type {getattr(kind, '__name__', kind)}"
