"""Recipes: YAML files of flags, so that a setting has a name and no command line is a page long.

Those of this package lie in `llava/configs`, by their names: `recipes` (what is trained), `hardware` (on which machine)
and `deepspeed`.

A key is a flag of `train.py` without its dashes and a value the words that would follow it, read as they stand: YAML's
own types, by which `no` is a boolean and `2e-5` a text, do not apply. `extends: FILE_OR_NAME` begins with the flags of
another recipe: a file beside this one, else a name of `llava/configs/recipes`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml

_EXTENDS = "extends"
_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_FOLDERS = {"--recipe": "recipes", "--hardware": "hardware"}  # the flags of the launch, and where each looks first


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

    @property
    def file(self) -> str:
        """The file alone."""
        return self.where.rpartition(":")[0]


def find_config(named: str | Path, *kinds: str, flag: str) -> Path:
    """A file that is named by its path, or by its name in `llava/configs`.

    Args:
        named: The path or the name.
        *kinds: Folders of `llava/configs` to look in.
        flag: That named it, for messages.

    Raises:
        ValueError: There is neither; the message lists near names.
    """
    return Path(named) if Path(named).is_file() else _by_name(str(named), kinds, flag)


def find_deepspeed_config(named: str) -> Path:
    """The file that `--deepspeed` names, by its path or by its name in `llava/configs`.

    Raises:
        ValueError: There is none, or it is no JSON object.
    """
    file = find_config(named, "deepspeed", flag="--deepspeed")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--deepspeed {file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"--deepspeed {file} holds no JSON object")
    return file


def _by_name(named: str, kinds: tuple[str, ...], flag: str) -> Path:
    known = {file.stem: file for kind in reversed(kinds) for file in (_CONFIGS / kind).iterdir() if file.is_file()}
    if named in known:
        return known[named]
    near = get_close_matches(named, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"names are those of the files in {_CONFIGS / kinds[0]}"
    raise ValueError(f"{flag}: {named}: there is no such file, and none of that name in llava/configs; {hint}")


def read_recipe(file: str | Path) -> list[Setting]:
    """The flags of a recipe or of a machine: those of the files that it extends, then its own.

    Args:
        file: Its path, or its name in `llava/configs`.

    Raises:
        ValueError: The file, or one that it extends, is missing or no YAML mapping of keys to words; a key stands
            twice; or a file extends itself by a detour. Names the file, and the line where there is one.
    """
    return _with_bases(find_config(file, "recipes", "hardware", flag="--recipe"), ())


def read_named(named: str, flag: str) -> list[Setting]:
    """The flags of what `--recipe` or `--hardware` names; one is not taken for the other.

    Args:
        named: A path, or a name of `llava/configs`.
        flag: `--recipe` or `--hardware`.

    Raises:
        ValueError: As `read_recipe`; or a recipe is given as a machine, or the other way round.
    """
    [other] = [each for each in _FOLDERS if each != flag]
    path = find_config(named, _FOLDERS[flag], _FOLDERS[other], flag=flag)
    settings = _with_bases(path, ())
    is_other = path.resolve().parent == _CONFIGS / _FOLDERS[other]
    if is_other or (flag == "--hardware" and any(setting.key == "stage" for setting in settings)):
        kind = "a machine" if flag == "--recipe" else "a recipe"
        raise ValueError(f"{flag}: {named} is {kind}; give it with {other}")
    return settings


def _with_bases(path: Path, extended_by: tuple[Path, ...]) -> list[Setting]:
    """The flags of a file after those of its bases; `extended_by` are the files that led to it."""
    way = (*extended_by, path.resolve())
    inherited: list[Setting] = []
    own: list[Setting] = []
    for setting in _read(path):
        if setting.key != _EXTENDS:
            own.append(setting)
            continue
        for named in setting.values:
            flag = f"{setting.where}: {_EXTENDS}"
            base = path.parent / named if (path.parent / named).is_file() else _by_name(named, ("recipes",), flag)
            if base.resolve() in way:
                circle = " -> ".join(str(each) for each in (*way, base.resolve()))
                raise ValueError(f"{flag}: {named}: the files extend each other in a circle: {circle}")
            inherited += _with_bases(base, way)
    return [*inherited, *own]


def _read(path: Path) -> list[Setting]:
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error
    except RecursionError:
        raise ValueError(f"{path} is no recipe: it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{path}: a recipe has lines of the form `flag: value`, without a dash before them")
    settings: dict[str, Setting] = {}
    for key_node, value_node in root.value:
        where = f"{path}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise ValueError(f"{where}: a key is a flag's name, not a list or a mapping")
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
