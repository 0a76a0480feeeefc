"""The names of tensors, LLaVA's, transformers' files' and transformers' modules': a table each, read both ways."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")
Table = tuple[tuple[str, str], ...]

# (prefix in the file, prefix in the module), the longest match first. `{tower}` is the tower's root in the module,
# `{video}` that of a tower for videos.
PROJECTOR_NAMES: Table = (  # an activation stands between two layers; a lone layer, of type `linear`, has no number
    *((f"model.mm_projector.{2 * n}.", f"model.multi_modal_projector.linear_{n + 1}.") for n in range(9)),
    ("model.mm_projector.", "model.multi_modal_projector."),
)
LLAVA_NAMES: Table = (
    *PROJECTOR_NAMES,
    ("model.vision_tower.vision_tower.vision_model.", "{tower}"),
    ("model.image_tower.image_tower.", "{tower}"),  # Video-LLaVA's two
    ("model.video_tower.video_tower.", "{video}"),
    ("model.image_newline", "model.image_newline"),
    ("model.", "model.language_model."),
    ("lm_head.", "lm_head."),
)

# As published in llava-hf/*. This is what `save_pretrained` writes.
_PUBLISHED_NAMES: Table = (
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("vision_tower.vision_model.", "{tower}"),
    ("video_tower.vision_model.", "{video}"),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("image_newline", "model.image_newline"),
)

# Other spellings that transformers has written over time; read, never written.
_TRANSFORMERS_SPELLINGS: Table = (
    *_PUBLISHED_NAMES,
    ("image_tower.vision_model.", "{tower}"),
    ("model.image_tower.", "{tower}"),
    ("image_tower.", "{tower}"),
    ("video_tower.", "{video}"),
    ("model.vision_tower.vision_model.", "{tower}"),
    ("vision_tower.", "{tower}"),
    ("model.vision_tower.", "{tower}"),
    ("model.", "model."),
    ("lm_head.", "lm_head."),
)

TOWER_NAMES: Table = (("vision_model.", "{tower}"), ("", "{tower}"))
LANGUAGE_MODEL_NAMES: Table = (("model.", "model.language_model."), ("lm_head.", "lm_head."))

# Buffers that old versions saved and that are made anew; and the half of a CLIP model that a tower is not.
_DERIVED = re.compile(r"(\.rotary_emb\.inv_freq|\.embeddings\.position_ids)$")
# peft wraps a model once, DeepSpeed at times once more; LLaVA's class then says `model` twice.
_WRAPPERS = re.compile(r"^(?:module\.|base_model\.model\.)*(?:model\.(?=model\.))*")
_NOT_OF_THE_TOWER = re.compile(r"(^|\.)(text_model|text_projection|visual_projection|logit_scale|logit_bias)(\.|$)")


def transformers_names(file_prefix: str, tower_name: str = "vision_tower") -> Table:
    """The names that `save_pretrained` writes.

    Args:
        file_prefix: Of the tower, see `TowerKind`.
        tower_name: What the tower is called in files, see `Family`.
    """
    tower = ("vision_tower.vision_model.", "{tower}")
    return tuple(
        (f"{tower_name}.{file_prefix}", new) if (old, new) == tower else (old, new) for old, new in _PUBLISHED_NAMES
    )


def tower_root(module_names: Iterable[str]) -> str:
    """Where the tower's modules live in this version of transformers, which before 5.20 nested them once more."""
    nested = "model.vision_tower.vision_model."
    return nested if any(name.startswith(nested) for name in module_names) else "model.vision_tower."


def is_derived(name: str) -> bool:
    """Whether a tensor of a file is a buffer that the model makes itself."""
    return _DERIVED.search(name) is not None


def belongs_to_tower(name: str) -> bool:
    """Whether a tensor of a whole CLIP or SigLIP checkpoint is the vision tower's."""
    return _NOT_OF_THE_TOWER.search(name) is None


def layer_of(name: str, layers: str) -> int:
    """The number of the layer that a tensor is of; -1 for none.

    Args:
        name: Of the tensor.
        layers: What the list of layers is called.
    """
    found = re.search(rf"(?:^|\.){re.escape(layers)}\.(\d+)\.", name)
    return -1 if found is None else int(found[1])


def is_head(name: str) -> bool:
    """Whether a tensor of a tower is of its pooling head, which SigLIP has behind the last layer."""
    return re.match(r"(vision_model\.)?head\.", name) is not None


def unwrapped(state: Mapping[str, Value]) -> dict[str, Value]:
    """Takes the prefixes of peft and DeepSpeed from a file's names."""
    return {_WRAPPERS.sub("", name): value for name, value in state.items()}


def to_module_names(state: Mapping[str, Value], table: Table, tower: str) -> dict[str, Value]:
    """Renames a file's tensors to the module's names; unknown names stay, for the strict check to find.

    Args:
        state: Tensors by the file's names.
        table: One of the tables above.
        tower: From `tower_root`.
    """
    return {_rename(name, table, tower): value for name, value in state.items() if not is_derived(name)}


def from_transformers_names(state: Mapping[str, Value], tower: str) -> dict[str, Value]:
    """Renames the tensors of a transformers checkpoint, of any age, to the module's names."""
    return to_module_names(state, _TRANSFORMERS_SPELLINGS, tower)


def to_file_names(state: Mapping[str, Value], table: Table, tower: str) -> dict[str, Value]:
    """Renames the module's tensors to a file's names: the inverse of `to_module_names`."""
    inverse = tuple((_in_module(module, tower), file) for file, module in table)
    longest_first = tuple(sorted(inverse, key=lambda pair: -len(pair[0])))
    return {_rename(name, longest_first, tower): value for name, value in state.items()}


def _rename(name: str, table: Table, tower: str) -> str:
    for old, new in table:
        if name.startswith(old):
            return _in_module(new, tower) + name[len(old) :]
    return name


def _in_module(prefix: str, tower: str) -> str:
    return prefix.format(tower=tower, video=tower.replace("vision_tower", "video_tower"))
