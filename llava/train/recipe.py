"""Recipes: YAML files of flags, so that a setting has a name and no command line is a page long.

A key is a flag of `train.py` without its dashes and a value the words that would follow it, read as they stand: YAML's
own types, by which `no` is a boolean and `2e-5` a text, do not apply. `extends: FILE`, relative to the recipe, begins
with the flags of another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

_EXTENDS = "extends"


@dataclass(frozen=True)
class Setting:
    """A flag of a recipe.

    Attributes:
        key: Its name, without dashes.
        values: The words that follow it.
        where: File and line, for messages.
    """

    key: str
    values: tuple[str, ...]
    where: str


def read_recipe(file: str | Path) -> list[Setting]:
    """The flags of a recipe: those of the file that it extends, then its own.

    Raises:
        ValueError: The file is missing or no YAML mapping of keys to words, a key stands twice, or the file that it
            extends itself extends another; names the file, and the line where there is one.
    """
    path = Path(file)
    own = _read(path)
    bases = [setting for setting in own if setting.key == _EXTENDS]
    settings = [setting for setting in own if setting.key != _EXTENDS]
    for base in bases:
        inherited = _read(path.parent / " ".join(base.values), named_by=base.where)
        for setting in inherited:
            if setting.key == _EXTENDS:
                raise ValueError(f"{setting.where}: {path} extends this file, which may not extend another")
        settings = [*inherited, *settings]
    return settings


def _read(path: Path, named_by: str | None = None) -> list[Setting]:
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"{named_by or '--recipe'}: {path}: there is no such file") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{path}: a recipe is a list of `flag: value` lines")
    settings: dict[str, Setting] = {}
    for key_node, value_node in root.value:
        where = f"{path}:{key_node.start_mark.line + 1}"
        key = str(key_node.value)
        if key in settings:
            raise ValueError(f"{where}: {key} stands twice, first at {settings[key].where}")
        settings[key] = Setting(key, _words(value_node, f"{where}: {key}"), where)
    return list(settings.values())


def _words(node: yaml.Node, where: str) -> tuple[str, ...]:
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not nodes or any(not isinstance(each, yaml.ScalarNode) or not each.value for each in nodes):
        raise ValueError(f"{where} needs a value: a word, or a list of words")
    return tuple(each.value for each in nodes)
