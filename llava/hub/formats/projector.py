"""A projector alone: `mm_projector.safetensors` and the config it was tuned for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llava.hub.formats.export_source import open_source
from llava.hub.formats.hf import Layout, config_entries, is_local_path, without_local_paths
from llava.hub.formats.llava import name_tower
from llava.hub.formats.llava_entries import known_to_llava, llava_config
from llava.hub.json_file import write_json
from llava.kinds.families import FAMILIES
from llava.model.checkpoints.config_adapter import is_transformers_format
from llava.model.checkpoints.files import projector_file, read_json
from llava.model.checkpoints.lora import is_adapter
from llava.model.checkpoints.names import PROJECTOR_NAMES, to_file_names
from llava.model.checkpoints.stored_tensor import StoredTensor
from llava.model.configuration import CompressionConfig, as_compression
from llava.model.multimodal_projector import read_projector

LEGACY_FILE = "mm_projector.bin"
_BASE = "base_model_name_or_path"
_PARTS = ("model.multi_modal_projector.", "model.image_newline")


def write_projector(
    src: Path,
    folder: Path,
    *,
    public: str,
    model_base: str | None = None,
    legacy: bool = False,
    vision_tower: str | None = None,
) -> tuple[Layout, CompressionConfig | None]:
    """Writes the config, and with `legacy` LLaVA's `.bin`; a projector's own folder is read without its base.

    Args:
        src: A projector's folder, or anything that holds one.
        folder: Where to.
        public: Name of the source, for others.
        model_base: What the projector goes on; by default what the source says.
        legacy: Write what haotian-liu/LLaVA reads: its config, and a `.bin` beside the safetensors.
        vision_tower: With `legacy`, what `mm_vision_tower` is to say.

    Returns:
        The projector's tensors by LLaVA's names, and the compression.

    Raises:
        CheckpointError: There is no projector, or with `legacy` LLaVA cannot read such a model.
    """
    notes: list[str] = []
    if projector_file(src) is not None and not is_adapter(src):
        state = read_projector(src)
        raw = read_json(src / "config.json")
        base = model_base or raw.get(_BASE)
    else:
        source = open_source(src, model_base)
        state = {name: source.tensors[name].read() for name in source.tensors if name.startswith(_PARTS)}
        raw = {**config_entries(source, notes), "mm_vision_tower": getattr(source.config, "mm_vision_tower", None)}
        base = model_base or getattr(source.config, _BASE, None) or public
        if model_base is None:
            notes.append(f"The projector goes on {base}: a base that was tuned with it must be released with it.")
    if legacy and is_transformers_format(raw):
        raw = _legacy_entries(raw, str(src), vision_tower, state, notes)
    raw = {name: value for name, value in raw.items() if value is not None or name == "compression"}
    raw.pop("_name_or_path", None)
    raw = {name: without_local_paths(value, src, notes, name) for name, value in raw.items()}
    if base is not None:
        raw[_BASE] = str(base)
    for name in [name for name, value in raw.items() if is_local_path(value, src)]:
        notes.append(f"config.json: {name} {raw[name]} is a place on this machine; others cannot use it.")
    write_json(folder / "config.json", raw)
    named = to_file_names(state, PROJECTOR_NAMES, tower="")
    if legacy:
        torch.save({name: value.clone() for name, value in named.items()}, folder / LEGACY_FILE)
    budget = as_compression(raw.get("compression"))
    return Layout({name: StoredTensor.of(value) for name, value in named.items()}, tuple(notes)), budget


def _legacy_entries(
    raw: dict[str, Any], where: str, vision_tower: str | None, state: dict[str, torch.Tensor], notes: list[str]
) -> dict[str, Any]:
    config = FAMILIES.get(raw["model_type"]).config().from_dict(raw)
    dtype = str(next(iter(state.values())).dtype).removeprefix("torch.")
    entries = llava_config(config, dtype, where, known_to_llava(config, where))
    name_tower(entries, config.vision_config, vision_tower, where, notes)
    return entries
