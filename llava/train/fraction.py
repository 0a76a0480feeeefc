"""For which data a recipe's `data_fraction` is meant: its own, and not the file of a user who names another one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llava.data.prepare.catalog import DATASETS
from llava.data.prepare.origin import dataset_of
from llava.train.recipe import Setting


def data_of_fraction(settings: Sequence[Setting]) -> str | None:
    """The `data_path` that recipes have where they set `data_fraction`: in the same file, or before it.

    Args:
        settings: Of all recipes of a run, in order.

    Returns:
        None if no recipe sets a fraction, or the one that does names no data: then it holds for any.
    """
    places = [number for number, setting in enumerate(settings) if _name(setting) == "data_fraction"]
    if not places:
        return None
    file = settings[places[-1]].file
    last = max(number for number, setting in enumerate(settings) if setting.file == file)
    paths = [setting.values[0] for setting in settings[: last + 1] if _name(setting) == "data_path"]
    return paths[-1] if paths else None


def is_same_data(data_path: str, meant: str) -> bool:
    """Whether `--data_path` names the data of a recipe, or what `llava.data.prepare` recorded as that data set.

    Raises:
        ValueError: The record is damaged.
    """
    if Path(data_path).absolute() == Path(meant).absolute():
        return True
    dataset = dataset_of(data_path)
    return dataset is not None and Path(DATASETS[dataset]().annotations.path).name == Path(meant).name


def _name(setting: Setting) -> str:
    return setting.key.replace("-", "_")
