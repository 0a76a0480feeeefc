"""Checkpoints of a plain training loop: one safetensors file, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


def save_state(path: Path, model: nn.Module, optimiser: torch.optim.AdamW, step: int) -> None:
    """Writes weights and optimiser moments to one safetensors file, whole or not at all."""
    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": torch.as_tensor(value).contiguous() for key, value in state.items()}
    tensors["step"] = torch.tensor(step)
    save_file(tensors, f"{path}.part")
    os.replace(f"{path}.part", path)


def load_state(path: Path, model: nn.Module, optimiser: torch.optim.AdamW) -> int:
    """Restores what `save_state` wrote and returns the step to go on from."""
    tensors = load_file(path)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state = optimiser.state_dict()
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".", 2)
            state["state"].setdefault(int(index), {})[key] = value
    optimiser.load_state_dict(state)
    return int(tensors["step"])
