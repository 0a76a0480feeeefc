"""LoRA adapters on disk (this package's, LLaVA's, peft's), and merging them into the weights of their base.

W' = W + s B A, with s = alpha / r (Hu et al. 2021), or alpha / sqrt(r) for rank-stabilised LoRA (Kalajdzievski 2023).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava.model.checkpoints.files import TRAINED_FILE, CheckpointError, read_json, read_tensors
from llava.model.checkpoints.names import LLAVA_NAMES, from_transformers_names, to_module_names, unwrapped
from llava.model.checkpoints.patterns import wrong_pattern
from llava.model.checkpoints.stored_tensor import StoredTensor

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
_ADAPTER_FILES = (ADAPTER_FILE, "adapter_model.bin", TRAINED_FILE)
_OTHERS_FILE = "non_lora_trainables.bin"  # LLaVA's: the projector, and what else was trained beside the adapters
_MAX_NAMED = 5

_OF_LLAVA = re.compile(r"model\.(layers|embed_tokens|norm|mm_projector)\.")
# The layer, the factor, and the adapter's name, which peft leaves out of its files.
_FACTOR = re.compile(r"(.+)\.lora_([AB])\.(?:\w+\.)?weight")
_MAGNITUDE = ".lora_magnitude_vector"  # of DoRA; a module whose weight peft's files name without `weight`
_BIAS = re.compile(r"(.+?)(?:\.base_layer)?\.bias")

# Entries of adapter_config.json that are read here, or that matter only to training or to other libraries.
_UNDERSTOOD = {
    *("peft_type", "task_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias"),
    *("init_lora_weights", "base_model_name_or_path", "revision", "lora_dropout", "inference_mode", "auto_mapping"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "megatron_config"),
    *("megatron_core", "peft_version", "eva_config", "qalora_group_size"),
}
_KEEP_THE_BASE = (True, False, None, "gaussian", "orthogonal", "eva")  # other ways to begin change the base as well


@dataclass(frozen=True)
class Adapter:
    """An adapter, by the module's names.

    Attributes:
        factors: A (r, in), B (out, r) and the scale of each adapted layer.
        others: Tensors that take the place of the base's: trained biases, and what a training checkpoint holds besides.
    """

    factors: dict[str, tuple[Tensor, Tensor, float]]
    others: dict[str, Tensor]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The entries of an adapter's config, whose patterns can be tried on names.

    Raises:
        CheckpointError: It is missing, or an entry or a pattern is not what it must be.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    problem = wrong_pattern(config)
    if problem is not None:
        raise CheckpointError(f"{folder}: {ADAPTER_CONFIG}: {problem}")
    return config


def adapter_base(folder: Path) -> str | None:
    """The base that an adapter names, if any."""
    return read_adapter_config(folder).get("base_model_name_or_path") or None


def adapter_file(folder: Path) -> Path | None:
    """The file of an adapter's tensors, if there is one."""
    return next((folder / name for name in _ADAPTER_FILES if (folder / name).is_file()), None)


def read_adapter(folder: Path, tower: str) -> Adapter:
    """Reads an adapter.

    Args:
        folder: With `adapter_config.json`.
        tower: From `tower_root`, for the names.

    Raises:
        CheckpointError: It is incomplete, or of a kind that is not merged here; the message names field or tensors.
    """
    config = read_adapter_config(folder)
    _check_config(config, folder)
    file = adapter_file(folder)
    if file is None:
        raise CheckpointError(f"{folder}: there is {ADAPTER_CONFIG}, but none of {', '.join(_ADAPTER_FILES)}")
    halves: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    foreign = []
    for name, value in unwrapped(read_tensors([file])).items():
        if (factor := _FACTOR.fullmatch(name)) and value.dim() == 2:
            halves.setdefault(factor[1], {})[factor[2]] = value
        elif "lora_" not in name and (bias := _BIAS.fullmatch(name)):
            others[f"{bias[1]}.bias"] = value
        elif "lora_" not in name and file.name == TRAINED_FILE:
            others[name] = value
        else:
            foreign.append(name)
    incomplete = [layer for layer, pair in halves.items() if len(pair) < 2]
    if foreign or incomplete or not halves:
        found = f"tensors that are no factors of linear layers: {some(foreign)}" if foreign else "no whole factors"
        found = f"only one factor of {some(incomplete)}" if incomplete and not foreign else found
        raise CheckpointError(f"{file}: {found}; merge the adapter with peft first")
    factors = {layer: (pair["A"], pair["B"], _scale(config, layer, pair["A"], file)) for layer, pair in halves.items()}
    rename = _renaming(halves, tower)
    return Adapter(
        {name.removesuffix(".weight"): value for name, value in rename(_with_suffix(factors)).items()}, rename(others)
    )


def adapter_tensors(folder: Path, tower: str) -> dict[str, Tensor]:
    """The tensors of an adapter as peft names them, whatever the age of its file, with the module's names of layers.

    Args:
        folder: With `adapter_config.json`.
        tower: From `tower_root`, for the names.

    Raises:
        CheckpointError: There are none.
    """
    read_adapter_config(folder)
    file = adapter_file(folder)
    if file is None:
        raise CheckpointError(f"{folder}: there is {ADAPTER_CONFIG}, but none of {', '.join(_ADAPTER_FILES)}")
    tensors = {
        f"{name}.weight" if name.endswith(_MAGNITUDE) else name: value
        for name, value in unwrapped(read_tensors([file])).items()
    }
    return dict(_renaming(tensors, tower)(tensors))


def read_trained_beside(folder: Path, tower: str) -> dict[str, Tensor] | None:
    """What LLaVA's `non_lora_trainables.bin` holds, by the module's names; None without one.

    Args:
        folder: Of the adapter.
        tower: From `tower_root`, for the names.
    """
    file = folder / _OTHERS_FILE
    return to_module_names(unwrapped(read_tensors([file])), LLAVA_NAMES, tower) if file.is_file() else None


def merge_adapter(
    state: dict[str, StoredTensor], adapter: Adapter, where: str, dtype: torch.dtype | str | None = None
) -> None:
    """Adds an adapter to the weights of its base, in float32, each as it is read.

    Args:
        state: Tensors of the base by the module's names; the adapted ones are replaced.
        adapter: From `read_adapter`.
        where: Adapter and base, for the message.
        dtype: In which the sums are kept; by default, and for `"auto"`, that of each weight of the base.

    Raises:
        CheckpointError: Layers are missing or of another shape: the base is another model.
    """
    _check_adapter(state, adapter, where)
    for layer, factors in adapter.factors.items():
        weight = state[f"{layer}.weight"]
        kept = dtype if isinstance(dtype, torch.dtype) else weight.dtype
        state[f"{layer}.weight"] = StoredTensor(weight.shape, kept, partial(_read_merged, weight, factors, kept))


def _read_merged(weight: StoredTensor, factors: tuple[Tensor, Tensor, float], dtype: torch.dtype) -> tuple[Tensor]:
    """W + s B A; in float32, and then rounded.

    Args:
        weight: (out, in).
        factors: A (r, in), B (out, r) and the scale.
        dtype: Of the sum.
    """
    a, b, scale = factors
    return ((b.float() @ a.float()).mul_(scale).add_(weight.read()).to(dtype),)  # in place: nothing else as large


def _check_adapter(state: Mapping[str, StoredTensor], adapter: Adapter, where: str) -> None:
    """Compares an adapter with the weights it is to be added to.

    Args:
        state: Tensors of the base by the module's names.
        adapter: From `read_adapter`.
        where: Adapter and base, for the message.

    Raises:
        CheckpointError: Layers are missing or of another shape: the base is another model.
    """
    missing, misshapen = [], []
    for layer, (a, b, _) in adapter.factors.items():
        weight = state.get(f"{layer}.weight")
        if weight is None:
            missing.append(f"{layer}.weight")
        elif weight.shape != (len(b), a.shape[1]):
            misshapen.append(f"{layer}.weight is {weight.shape}, the adapter's {(len(b), a.shape[1])}")
    if missing or misshapen:
        said = [f"not in the base ({len(missing)}): {some(missing)}"] if missing else []
        said += [f"of another shape ({len(misshapen)}): {some(misshapen)}"] if misshapen else []
        raise CheckpointError(f"{where}: the adapter was trained on another model; {'; '.join(said)}")


def _check_config(config: Mapping[str, Any], folder: Path) -> None:
    refused = {
        name: value
        for name, value in config.items()
        if name not in _UNDERSTOOD and value not in (None, False, "", {}, [])
    }
    if config.get("peft_type") != "LORA":
        refused["peft_type"] = config.get("peft_type")
    if config.get("init_lora_weights", True) not in _KEEP_THE_BASE:
        refused["init_lora_weights"] = config["init_lora_weights"]
    if refused:
        said = ", ".join(f"{name} {value!r}" for name, value in sorted(refused.items()))
        raise CheckpointError(
            f"{folder}: {ADAPTER_CONFIG}: {said}: not supported; merge with peft first (`merge_and_unload`), "
            "and load the whole model"
        )


def _scale(config: Mapping[str, Any], layer: str, a: Tensor, file: Path) -> float:
    rank = _of_pattern(config, "rank_pattern", layer, config.get("r"))
    if len(a) != rank:
        raise CheckpointError(f"{file}: {layer}.lora_A is of rank {len(a)}, {ADAPTER_CONFIG} says {rank}")
    alpha = _of_pattern(config, "alpha_pattern", layer, config.get("lora_alpha"))
    if alpha is None:
        raise CheckpointError(f"{file.parent}: {ADAPTER_CONFIG}: lora_alpha is missing")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of_pattern(config: Mapping[str, Any], entry: str, layer: str, otherwise: Any) -> Any:
    """The first pattern that is the end of the layer's name, as peft has it."""
    patterns = (config.get(entry) or {}).items()
    return next((value for pattern, value in patterns if re.match(rf"(.*\.)?({pattern})$", layer)), otherwise)


def _renaming(layers: Any, tower: str) -> Any:
    """LLaVA's names or transformers', as the layers are called."""
    if any(_OF_LLAVA.match(layer) for layer in layers):
        return lambda tensors: to_module_names(tensors, LLAVA_NAMES, tower)
    return lambda tensors: from_transformers_names(tensors, tower)


def _with_suffix(factors: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{layer}.weight": value for layer, value in factors.items()}


def some(names: Iterable[str]) -> str:
    """The first few names, for a message."""
    names = list(names)
    return ", ".join(sorted(names)[:_MAX_NAMED]) + (", ..." if len(names) > _MAX_NAMED else "")
