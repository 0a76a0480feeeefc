"""Checkpoints that are broken in one place each."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Break = Callable[[Path], None]


def entry(file: str, name: str, value: Any) -> Break:
    """Sets one entry of a JSON file."""

    def change(folder: Path) -> None:
        entries = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(entries | {name: value}))

    return change


def content(file: str, data: bytes) -> Break:
    """Replaces a file."""

    def change(folder: Path) -> None:
        (folder / file).write_bytes(data)

    return change


def both(*breaks: Break) -> Break:
    """One after the other."""

    def change(folder: Path) -> None:
        for one in breaks:
            one(folder)

    return change


def without(file: str) -> Break:
    """Removes a file."""
    return lambda folder: (folder / file).unlink()


def cut(file: str, size: int) -> Break:
    """Keeps the first bytes of a file."""
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:size])


def _nan_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    tensors["lm_head.weight"][:] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})


def _index(weight_map: Any) -> Break:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    return change


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'echo taken over > taken_over'\ntR.")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 4221\n"
CONFIG = "config.json"

# What is broken, and words that the error must hold; each is read by every command that loads a model.
BROKEN: dict[str, tuple[Break, tuple[str, ...]]] = {
    "no-config": (without(CONFIG), (CONFIG,)),
    "config-empty": (content(CONFIG, b""), (CONFIG,)),
    "config-no-json": (content(CONFIG, b"{'a': 1}"), (CONFIG,)),
    "config-no-utf8": (content(CONFIG, b'{"a": "\xff\xfe"}'), (CONFIG,)),
    "config-list": (content(CONFIG, b"[1]"), (CONFIG,)),
    "config-deep": (content(CONFIG, b'{"a":' * 100_000), (CONFIG,)),
    "config-pointer": (content(CONFIG, POINTER), (CONFIG, "git-lfs")),
    "hidden-size-text": (entry(CONFIG, "hidden_size", "wide"), (CONFIG, "hidden_size", "wide")),
    "hidden-size-null": (entry(CONFIG, "hidden_size", None), (CONFIG, "hidden_size")),
    "hidden-size-negative": (entry(CONFIG, "hidden_size", -64), (CONFIG, "hidden_size", "-64")),
    "layers-huge": (entry(CONFIG, "num_hidden_layers", 10**7), (CONFIG, "num_hidden_layers", "10000000")),
    "layers-list": (entry(CONFIG, "num_hidden_layers", [2]), (CONFIG, "num_hidden_layers")),
    "heads-zero": (entry(CONFIG, "num_attention_heads", 0), (CONFIG, "num_attention_heads", "0")),
    "vocabulary-huge": (entry(CONFIG, "vocab_size", 10**12), (CONFIG, "vocab_size")),
    "model-type-list": (entry(CONFIG, "model_type", ["llava_llama"]), (CONFIG, "model_type")),
    "layer-text": (entry(CONFIG, "mm_vision_select_layer", "-2"), (CONFIG, "mm_vision_select_layer")),
    "layer-list": (entry(CONFIG, "mm_vision_select_layer", [-2, -5]), (CONFIG, "mm_vision_select_layer")),
    "layer-far": (entry(CONFIG, "mm_vision_select_layer", -200), ("-200",)),
    "feature-number": (entry(CONFIG, "mm_vision_select_feature", 3), (CONFIG, "mm_vision_select_feature", "3")),
    "tower-number": (entry(CONFIG, "mm_vision_tower", 7), (CONFIG, "mm_vision_tower")),
    "projector-list": (entry(CONFIG, "mm_projector_type", ["linear"]), (CONFIG, "mm_projector_type")),
    "pinpoints-number": (
        both(entry(CONFIG, "image_aspect_ratio", "anyres"), entry(CONFIG, "image_grid_pinpoints", 7)),
        (CONFIG, "image_grid_pinpoints"),
    ),
    "aspect-number": (entry(CONFIG, "image_aspect_ratio", 5), (CONFIG, "image_aspect_ratio", "5")),
    "merge-list": (entry(CONFIG, "mm_patch_merge_type", ["flat"]), (CONFIG, "mm_patch_merge_type")),
    "compression-number": (entry(CONFIG, "compression", 5), (CONFIG, "compression", "5")),
    "compression-method": (entry(CONFIG, "compression", {"method": 3, "dominant": 5}), (CONFIG, "compression")),
    "compression-text": (
        entry(CONFIG, "compression", {"method": "visionzip", "dominant": "many"}),
        (CONFIG, "compression", "many"),
    ),
    "rope-number": (entry(CONFIG, "rope_scaling", 7), (CONFIG, "rope_scaling")),
    "code": (entry(CONFIG, "auto_map", {"AutoModel": "evil.Evil"}), ()),
    "weights-missing": (without("model.safetensors"), ("no weights",)),
    "weights-cut": (cut("model.safetensors", 5000), ("model.safetensors",)),
    "weights-empty": (content("model.safetensors", b""), ("model.safetensors",)),
    "weights-pointer": (content("model.safetensors", POINTER), ("model.safetensors", "git-lfs")),
    "weights-header": (content("model.safetensors", struct.pack("<Q", 2**60) + b"{}"), ("model.safetensors",)),
    "weights-nan": (_nan_weights, ("NaN",)),
    "pickle": (_pickle, ("pytorch_model.bin",)),
    "index-list": (_index(["a"]), ("model.safetensors.index.json", "weight_map")),
    "index-number": (_index({"lm_head.weight": 5}), ("model.safetensors.index.json",)),
    "index-outside": (_index({"lm_head.weight": "../../secret.safetensors"}), ("index.json", "secret.safetensors")),
    "tokenizer-missing": (without("tokenizer.model"), ("tokenizer",)),
    "tokenizer-empty": (content("tokenizer.model", b""), ("tokenizer.model",)),
    "tokenizer-pointer": (content("tokenizer.model", POINTER), ("tokenizer.model", "git-lfs")),
    "tokenizer-config-list": (content("tokenizer_config.json", b"[]"), ("tokenizer_config.json",)),
    "tokenizer-config-no-json": (content("tokenizer_config.json", b"{"), ("tokenizer_config.json",)),
    "generation-config-no-json": (content("generation_config.json", b"{"), ("generation_config.json",)),
}

ADAPTER = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
# Adapters that are broken, each beside an adapter_model.safetensors of one tensor.
BROKEN_ADAPTERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "adapter-list": ([], ("adapter_config.json",)),
    "adapter-rank-text": (ADAPTER | {"r": "four"}, ("adapter_config.json", "four")),
    "adapter-rank-negative": (ADAPTER | {"r": -4}, ("adapter_config.json", "-4")),
    "adapter-base-number": (ADAPTER | {"base_model_name_or_path": 5}, ("adapter_config.json",)),
    "adapter-base-itself": (ADAPTER | {"base_model_name_or_path": "@SELF@"}, ("base",)),
}


def make(name: str, good: Path, folder: Path) -> Path:
    """A copy of the good checkpoint, broken by the entry of `BROKEN`."""
    shutil.copytree(good, folder)
    BROKEN[name][0](folder)
    return folder


def make_adapter(name: str, good: Path, folder: Path) -> Path:
    """An adapter folder, broken by the entry of `BROKEN_ADAPTERS`."""
    folder.mkdir()
    entries = BROKEN_ADAPTERS[name][0]
    if isinstance(entries, dict):
        entries = {"base_model_name_or_path": str(good)} | entries
    (folder / "adapter_config.json").write_text(json.dumps(entries).replace("@SELF@", str(folder)))
    save_file({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(4, 64)},
              folder / "adapter_model.safetensors")  # fmt: skip
    return folder
