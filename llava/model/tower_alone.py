"""A vision tower without its language model: from a checkpoint of its own, or out of a whole LLaVA's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from llava.images.processing import load_image_processor
from llava.images.rules import aspect_ratio_of
from llava.kinds.families import FAMILIES, family_of
from llava.kinds.towers import tower_kind
from llava.model.checkpoints.config_adapter import is_llava_format, is_transformers_format, vision_config_from
from llava.model.checkpoints.files import CheckpointError, resolve_checkpoint
from llava.model.checkpoints.lora import is_adapter
from llava.model.checkpoints.names import tower_root
from llava.model.checkpoints.parts import parts_of_checkpoint, tower_state
from llava.model.checkpoints.stored_tensor import StoredTensor
from llava.model.multimodal_compressor import TileShape
from llava.model.multimodal_encoder import tower_grid
from llava.model.tile_shapes import shape_of
from llava.plain_loading import auto_model_of, reason
from llava.small_files import optional_json

_PREFIX = "model.vision_tower."
_LLAVAS_LAYER = -2
_MAX_NAMED = 5


@dataclass(frozen=True)
class TowerAlone:
    """A tower, and what a LLaVA says of how it is used.

    Attributes:
        module: transformers' module, in eval mode.
        config: Its config.
        image_processor: Makes its pixels.
        layer: The hidden state that a LLaVA takes, as `vision_feature_layer`.
        images: An object with the entries that `process_images` reads: how images become tiles.
        tile_shape: What a compressor is told of a tile.
    """

    module: nn.Module
    config: Any
    image_processor: Any
    layer: int
    images: Any
    tile_shape: TileShape

    @property
    def num_layers(self) -> int:
        """Encoder layers."""
        return int(self.config.num_hidden_layers)

    @property
    def aspect_ratio(self) -> str | None:
        """`pad`, `square`, `anyres`, or None, which leaves it to the image processor."""
        return aspect_ratio_of(self.images)


def load_tower(
    path: str | Path,
    model_base: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TowerAlone:
    """Loads a tower; of a LLaVA's files nothing else is read.

    Args:
        path: A LLaVA of either format, a projector or adapters on one, a tower's own checkpoint, or a whole CLIP or
            SigLIP. Alone, a tower is used as LLaVA-1.5 does: layer -2, pictures padded to squares.
        model_base: What a projector or adapters go on; by default what they name.
        device: Where it is put.
        dtype: Of its weights.

    Raises:
        CheckpointError: It holds no tower that is supported, or its weights do not fit its config.
    """
    folder = resolve_checkpoint(path)
    raw = optional_json(folder, "config.json")
    if is_adapter(folder) or is_llava_format(raw) or is_transformers_format(raw):
        parts = parts_of_checkpoint(folder, model_base)
        state = {name.removeprefix(_PREFIX): value for name, value in parts.state.items() if name.startswith(_PREFIX)}
        config, processor, layer = parts.config.vision_config, parts.processor_folder, parts.config.vision_feature_layer
        images: Any = parts.config
        family = family_of(parts.config)
    else:
        config = vision_config_from(folder)
        images = SimpleNamespace(image_aspect_ratio="pad", vision_config=config)
        root = tower_root(f"{_PREFIX}{name}" for name in _empty(config, folder).state_dict())
        state = {name.removeprefix(_PREFIX): value for name, value in tower_state(folder, images, root).items()}
        processor, layer = folder, _LLAVAS_LAYER
        family = FAMILIES.get("llava")
    module = _filled(config, state, folder, dtype).to(device)
    shape = shape_of(family, tower_grid(config), tower_kind(config).has_cls)
    own = family.own_image_processor(images)
    return TowerAlone(module, config, own or load_image_processor(processor), layer, images, shape)


def _filled(config: Any, state: Mapping[str, StoredTensor], folder: Path, dtype: torch.dtype) -> nn.Module:
    """The tower with its weights.

    Raises:
        CheckpointError: Weights are missing, left over, or of another shape.
    """
    empty = _empty(config, folder)
    expected = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
    wrong = sorted(name for name in expected.keys() & state.keys() if state[name].shape != expected[name])
    for what, names in (
        ("lack", sorted(expected.keys() - state.keys())),
        ("have besides", sorted(state.keys() - expected.keys())),
        ("have in another shape", wrong),
    ):
        if names:
            named = ", ".join(names[:_MAX_NAMED]) + (", ..." if len(names) > _MAX_NAMED else "")
            raise CheckpointError(f"{folder}: the vision tower's weights {what} ({len(names)}): {named}")
    tensors = {name: tensor.read() for name, tensor in state.items()}
    made: nn.Module = type(empty).from_pretrained(None, config=config, state_dict=tensors, dtype=dtype)
    return made.eval().requires_grad_(False)


def _empty(config: Any, folder: Path) -> Any:
    """The tower without memory."""
    try:
        with torch.device("meta"):
            return auto_model_of(config)
    except Exception as error:  # modules refuse sizes with errors of any type
        raise CheckpointError(f"{folder}: config.json: no vision tower can be made of it: {reason(error)}") from error
