"""Vision towers: all that is known of a kind of tower, as one descriptor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llava.kinds.registry import Registry


def _two_matrices(config: Any) -> int:
    return int(2 * config.hidden_size * config.intermediate_size)


@dataclass(frozen=True)
class TowerKind:
    """A vision transformer of transformers that can be read layer by layer. Names are dotted, from the tower's core.

    Attributes:
        model_type: Of its config.
        has_cls: Whether it puts a CLS token first.
        layers: The list of encoder layers.
        embedding_norm: What follows the embeddings, None for nothing.
        layer_input: In a layer, the method that its input goes through before all else; None for nothing.
        attention_norm: In a layer, what the attention's input goes through.
        attention: In a layer, the module with `q_proj`, `k_proj` and `head_dim`.
        attention_scale: In that module, what products are multiplied by.
        image_processors: `image_processor_type` of its published checkpoints -> transformers' Pillow class.
        file_prefix: In files of transformers' format, what stands between `vision_tower.` and the tower's own names.
        file_spellings: Parts of tensor names in published files -> the same in the module.
        mlp_weights: Maps a config to the weights of a layer's MLP, biases apart, which operations are counted by.
        known_to_llava: Whether haotian-liu/LLaVA can load it.
        cut_by_next: Whether LLaVA-NeXT's code takes its last layer and pooling head away and reads what is then last,
            whatever `mm_vision_select_layer` says.
        published: Names on the Hub -> config entries that a tower of that name has.
    """

    model_type: str
    has_cls: bool
    layers: str = "encoder.layers"
    embedding_norm: str | None = None
    layer_input: str | None = None
    attention_norm: str = "layer_norm1"
    attention: str = "self_attn"
    attention_scale: str = "scale"
    image_processors: Mapping[str, str] = field(default_factory=dict)
    file_prefix: str = ""
    file_spellings: Mapping[str, str] = field(default_factory=dict)
    mlp_weights: Callable[[Any], int] = _two_matrices
    known_to_llava: bool = False
    cut_by_next: bool = False
    published: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def published_name(self, vision_config: Any) -> str | None:
        """The name on the Hub of the tower that has this config's sizes, None if none is known."""
        for name, sizes in self.published.items():
            if all(getattr(vision_config, entry, None) == value for entry, value in sizes.items()):
                return name
        return None

    def spelled_as_module(self, name: str) -> str:
        """A tensor's name as the module spells it."""
        for old, new in self.file_spellings.items():
            name = name.replace(old, new)
        return name


TOWERS: Registry[TowerKind] = Registry(
    "vision tower",
    builtin=(
        "llava.model.multimodal_encoder.clip",
        "llava.model.multimodal_encoder.siglip",
        "llava.model.multimodal_encoder.dinov2",
        "llava.model.multimodal_encoder.languagebind",
    ),
)


def register_tower(kind: TowerKind) -> TowerKind:
    """Makes a tower known by its `model_type`.

    Raises:
        ValueError: The name is taken.
    """
    return TOWERS.register(kind.model_type, kind, depth=2)


def tower_kind(vision_config: Any) -> TowerKind:
    """The kind of the tower of a config.

    Raises:
        ValueError: It is not supported.
    """
    kind = TOWERS.find(vision_config.model_type)
    if kind is None:
        raise ValueError(
            f"vision_config.model_type {vision_config.model_type!r} is not supported; supported: "
            f"{', '.join(TOWERS.names())}, and what --plugin brings"
        )
    return kind


def entries_of_next(vision_config: Any) -> dict[str, Any]:
    """Entries of transformers' config for a tower as LLaVA-NeXT's code uses it; none if that is as anybody does.

    Args:
        vision_config: Of the whole tower; it is left as it is.
    """
    if not tower_kind(vision_config).cut_by_next:
        return {}
    used = copy.deepcopy(vision_config)
    used.num_hidden_layers -= 1
    used.vision_use_head = False
    return {"vision_config": used, "vision_feature_layer": -1}
