"""What Mini-Gemini's checkpoints hold beside LLaVA's parts: ConvNeXt under timm's names, and the mining's layers.

Facts from dvlab-research/MGM 769820cb and from laion's repository, whose file holds timm's names under `visual.trunk.`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llava.kinds.families import OwnParts
from llava.model.checkpoints.config_adapter import folder_named_by
from llava.model.checkpoints.files import open_tensors, weight_files
from llava.model.checkpoints.stored_tensor import StoredTensor
from llava.model.families.mini_gemini.sizes import CONVNEXT_L
from llava.plain_files import expanded
from llava.small_files import CheckpointError

_ENTRY = "mm_vision_tower_aux"
_MINING = "model.mining."
_TOWER = f"{_MINING}tower."
_LAYERS = {
    "model.vlm_uni_query_projector.": f"{_MINING}query.",
    "model.vlm_uni_aux_projector.": f"{_MINING}key.",
    "model.vlm_uni_val_projector.": f"{_MINING}value.",
}
_IN_CHECKPOINT = "model.vision_tower_aux.vision_"
_IN_OPEN_CLIP = "visual.trunk."
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_STEM = {"0": "patch_embeddings", "1": "layernorm"}
_OF_A_BLOCK = {
    "conv_dw": "dwconv",
    "norm": "layernorm",
    "mlp.fc1": "pwconv1",
    "mlp.fc2": "pwconv2",
    "gamma": "layer_scale_parameter",
}
_NAME = re.compile(
    r"stem\.(?P<stem>[01])\.(?P<of_stem>\w+)"
    r"|stages\.(?P<stage>\d+)\.(?:downsample\.(?P<down>[01]\.\w+)"
    r"|blocks\.(?P<block>\d+)\.(?P<part>conv_dw|norm|mlp\.fc[12]|gamma)(?P<of_part>\.\w+)?)"
)

_CONVOLUTION = re.compile(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.dwconv\.weight")
_CONVOLUTION_AXES = 4


def convnext_name(name: str) -> str | None:
    """Timm's name of a ConvNeXt's tensor as transformers' `ConvNextModel` has it; None for what is none of its body."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    if found["stem"]:
        return f"embeddings.{_STEM[found['stem']]}.{found['of_stem']}"
    stage = f"encoder.stages.{found['stage']}"
    if found["down"]:
        return f"{stage}.downsampling_layer.{found['down']}"
    return f"{stage}.layers.{found['block']}.{_OF_A_BLOCK[found['part']]}{found['of_part'] or ''}"


def module_name(name: str) -> str | None:
    """The name in the module of a tensor in a checkpoint; None for LLaVA's own."""
    for old, new in _LAYERS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    renamed = convnext_name(name.removeprefix(_IN_CHECKPOINT)) if name.startswith(_IN_CHECKPOINT) else None
    return None if renamed is None else _TOWER + renamed


def _entries(raw: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`aux_config`: the widths and depths of the ConvNeXt, which config.json does not say.

    Raises:
        CheckpointError: They are not those of the published one, and no weights are at hand to read them from.
    """
    try:
        files = weight_files(folder)
    except CheckpointError:  # shards that are not there, where only small files were fetched
        files = []
    named = {module_name(name): tensor.shape for name, tensor in open_tensors(files).items()}
    shapes = {name.removeprefix(_TOWER): shape for name, shape in named.items() if name and name.startswith(_TOWER)}
    place = None if shapes else _own_folder(raw, folder, weights=bool(files))
    if place is not None:
        shapes = {name: tensor.shape for name, tensor in _open_clip_tensors(place).items()}
    if shapes:
        return {"aux_config": _sizes(shapes, folder)}
    channels = raw.get("mm_hidden_size_aux")
    if channels in (None, sum(CONVNEXT_L["hidden_sizes"])):
        return {"aux_config": CONVNEXT_L}
    raise CheckpointError(
        f"{folder}: config.json: mm_hidden_size_aux {channels!r}: the ConvNeXt is not the published one, of "
        f"{sum(CONVNEXT_L['hidden_sizes'])}, and there are no weights that tell its sizes"
    )


def _own_folder(raw: Mapping[str, Any], folder: Path, *, weights: bool) -> Path | None:
    """The folder of the second tower; None where it is not on this machine and its weights are not needed.

    Raises:
        CheckpointError: They are needed, and cannot be had.
    """
    named = raw[_ENTRY]
    if weights:
        return folder_named_by(raw, _ENTRY, named, folder, weights=True)
    return next((place for place in (folder / str(named), expanded(named)) if place.is_dir()), None)


def _sizes(shapes: Mapping[str, tuple[int, ...]], folder: Path) -> dict[str, list[int]]:
    """Widths and depths of a ConvNeXt, read off its tensors by transformers' names."""
    found = [_CONVOLUTION.fullmatch(name) for name in shapes if len(shapes[name]) == _CONVOLUTION_AXES]
    blocks = sorted((int(each[1]), int(each[2]), shapes[each[0]][0]) for each in found if each is not None)
    widths = {stage: width for stage, _, width in blocks}
    stages = list(widths)
    if stages != list(range(len(stages))) or not stages:
        raise CheckpointError(f"{folder}: the second tower is no whole ConvNeXt; it has the stages {stages}")
    numbers = [[block for stage, block, _ in blocks if stage == each] for each in stages]
    for stage, own in enumerate(numbers):
        if own != list(range(len(own))):
            raise CheckpointError(
                f"{folder}: the second tower is no whole ConvNeXt; its stage {stage} has the blocks {own}"
            )
    return {"hidden_sizes": list(widths.values()), "depths": [len(own) for own in numbers]}


def _tensors(raw: Mapping[str, Any], folder: Path, names: Iterable[str]) -> dict[str, StoredTensor]:
    """The ConvNeXt from its own folder or repository, where the checkpoint has none inside.

    Raises:
        CheckpointError: It cannot be had.
    """
    places = _places(raw, folder, names)
    return {_TOWER + name: tensor for place in places for name, tensor in _open_clip_tensors(place).items()}


def _places(raw: Mapping[str, Any], folder: Path, names: Iterable[str]) -> list[Path]:
    """Where the ConvNeXt lies, if none of these names, by the module, is of it."""
    if any(name.startswith(_TOWER) for name in names):
        return []
    return [folder_named_by(raw, _ENTRY, raw[_ENTRY], folder, weights=True)]


def _folders(raw: Mapping[str, Any], folder: Path) -> list[Path]:
    """The ConvNeXt's folder, if a checkpoint has none inside; a folder without weights goes on another.

    Raises:
        CheckpointError: It cannot be had.
    """
    files = weight_files(folder)
    return _places(raw, folder, [module_name(name) or "" for name in open_tensors(files)]) if files else []


def _open_clip_tensors(place: Path) -> dict[str, StoredTensor]:
    """The body of the ConvNeXt in open_clip's file, by transformers' names; head and text tower are left."""
    file = next((place / name for name in _OPEN_CLIP_FILES if (place / name).is_file()), None)
    if file is None:
        raise CheckpointError(
            f"{place}: there is none of {', '.join(_OPEN_CLIP_FILES)}, the weights of the second tower"
        )
    named = {
        convnext_name(name.removeprefix(_IN_OPEN_CLIP)): tensor
        for name, tensor in open_tensors([file]).items()
        if name.startswith(_IN_OPEN_CLIP)
    }
    found = {name: tensor for name, tensor in named.items() if name is not None}
    if not found:
        raise CheckpointError(f"{file}: holds no ConvNeXt: no tensor is called {_IN_OPEN_CLIP}stem or .stages")
    return found


OWN_PARTS = OwnParts(_entries, module_name, _tensors, _folders)
