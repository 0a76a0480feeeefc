"""A model of one layer each, made without memory: what the tensors of the whole one are called, and their shapes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from llava.kinds.towers import tower_kind
from llava.model.checkpoints.names import tower_root
from llava.model.llava_config import LlavaConfig, LlavaNextConfig
from llava.model.multimodal_encoder import selected_depth
from llava.model.zero3 import without_zero3
from llava.plain_loading import auto_model_of, reason
from llava.small_files import CheckpointError

# Where towers are in the module -> their entry of the config.
_TOWERS = {"model.vision_tower.": "vision_config", "model.video_tower.": "video_config"}


def expected_shapes(
    config: LlavaConfig | LlavaNextConfig, model_class: type[Any], where: Path
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model's tensors, read off one layer of each part: all layers of a part are alike.

    Args:
        config: Of the model.
        model_class: Makes a model of the config.
        where: Folder of the checkpoint, for the message.

    Raises:
        CheckpointError: No model can be made of the config.
    """
    shallow = copy.deepcopy(config)
    with _named(where):
        selected_depth(config.vision_feature_layer, config.vision_config.num_hidden_layers)
    shallow.vision_feature_layer = -1
    shallow.compression = None  # it has no weights, and one inside the language model needs its layers
    towers = {prefix: entry for prefix, entry in _TOWERS.items() if getattr(config, entry, None) is not None}
    for part in (*towers.values(), "text_config"):
        getattr(shallow, part).num_hidden_layers = 1
    with _named(where), without_zero3(), torch.device("meta"):
        model = model_class(shallow)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in model.state_dict().items():
        tower = next((getattr(config, entry) for prefix, entry in towers.items() if name.startswith(prefix)), None)
        part = config.text_config if tower is None else tower
        layers = "layers" if tower is None else tower_kind(tower).layers
        before, layer, after = name.partition(f".{layers}.0.")
        names = [f"{before}.{layers}.{index}.{after}" for index in range(part.num_hidden_layers)] if layer else [name]
        shapes |= dict.fromkeys(names, tuple(value.shape))
    return shapes


def module_root(config: LlavaConfig | LlavaNextConfig, where: Path) -> str:
    """Where the tower's tensors are in the model, read off a tower of one layer, which is soon made.

    Raises:
        CheckpointError: No tower can be made of the config.
    """
    shallow = copy.deepcopy(config.vision_config)
    shallow.num_hidden_layers = 1
    with _named(where), without_zero3(), torch.device("meta"):
        tower = auto_model_of(shallow)
    return tower_root(f"model.vision_tower.{name}" for name in tower.state_dict())


@contextmanager
def _named(where: Path) -> Iterator[None]:
    """Turns what modules say of their sizes, in errors of any type, into one that names the file."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(f"{where}: config.json: no model can be made of it: {reason(error)}") from error
