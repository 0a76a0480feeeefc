"""Recipes: YAML files of flags, so that a setting has a name and no command line is a page long.

Those of this package lie in `llava/configs`, by their names: `recipes` (what is trained), `hardware` (on which machine)
and `deepspeed`.

A key is a flag of `train.py` without its dashes and a value the words that would follow it, read as they stand: YAML's
own types, by which `no` is a boolean and `2e-5` a text, do not apply. `extends: FILE`, relative to the recipe, begins
with the flags of another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml

_EXTENDS = "extends"
_CONFIGS = Path(__file__).resolve().parents[1] / "configs"


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


def find_config(named: str | Path, *kinds: str, flag: str) -> Path:
    """A file that is named by its path, or by its name in `llava/configs`.

    Args:
        named: The path or the name.
        *kinds: Folders of `llava/configs` to look in.
        flag: That named it, for messages.

    Raises:
        ValueError: There is neither; the message lists near names.
    """
    if Path(named).is_file():
        return Path(named)
    known = {file.stem: file for kind in kinds for file in (_CONFIGS / kind).iterdir() if file.is_file()}
    if str(named) in known:
        return known[str(named)]
    near = get_close_matches(str(named), known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"names are those of the files in {_CONFIGS / kinds[0]}"
    raise ValueError(f"{flag}: {named}: there is no such file, and none of that name in llava/configs; {hint}")


def find_recipe(named: str | Path, flag: str = "--recipe") -> Path:
    """The file of a recipe or of a machine; see `find_config`."""
    return find_config(named, "recipes", "hardware", flag=flag)


def read_recipe(file: str | Path) -> list[Setting]:
    """The flags of a recipe: those of the file that it extends, then its own.

    Args:
        file: Its path, or its name in `llava/configs`.

    Raises:
        ValueError: The file is missing or no YAML mapping of keys to words, a key stands twice, or the file that it
            extends itself extends another; names the file, and the line where there is one.
    """
    path = find_recipe(file)
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


def _read(path: Path, named_by: str = "--recipe") -> list[Setting]:
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"{named_by}: {path}: there is no such file") from error
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
