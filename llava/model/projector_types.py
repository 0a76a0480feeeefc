"""Projectors of LLaVA's types: transformers has one of them, `mlp2x_gelu`; the others are made here."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

USUAL = "mlp2x_gelu"
_MLP = re.compile(r"mlp([1-9])x_gelu")
_NO_LAYERS = {"linear": 1, "identity": 0}


def projector_depth(kind: str) -> int:
    """Linear layers of a projector.

    Args:
        kind: LLaVA's `mm_projector_type`: `linear`, `mlpNx_gelu` with N of 1 to 9, or `identity`.

    Raises:
        ValueError: It is none of these.
    """
    found = _MLP.fullmatch(kind)
    if found is None and kind not in _NO_LAYERS:
        known = "linear, mlp1x_gelu to mlp9x_gelu, identity"
        raise ValueError(f"mm_projector_type {kind!r} is not supported; there are {known}")
    return _NO_LAYERS[kind] if found is None else int(found[1])


def projector_type(config: Any) -> str:
    """LLaVA's `mm_projector_type` of a config; those of transformers' format say none."""
    return str(getattr(config, "mm_projector_type", None) or USUAL)


class Perceptron(nn.Module):
    """Linear layers with GELU between them, named as transformers names those of its projector."""

    def __init__(self, depth: int, channels: int, width: int) -> None:
        """Makes it.

        Args:
            depth: Linear layers, at least one.
            channels: Of the tower.
            width: Of the language model, and of what is between.
        """
        super().__init__()
        self.depth = depth
        for number in range(1, depth + 1):
            self.add_module(f"linear_{number}", nn.Linear(channels if number == 1 else width, width))

    def forward(self, rows: Tensor) -> Tensor:
        """(..., channels) to (..., width)."""
        for number in range(1, self.depth + 1):
            rows = self.get_submodule(f"linear_{number}")(rows if number == 1 else torch.nn.functional.gelu(rows))
        return rows


def other_projector(config: Any) -> nn.Module | None:
    """The projector of a config; None where it is transformers' own.

    Raises:
        ValueError: There is no such type, or `identity` joins parts of different widths.
    """
    kind = projector_type(config)
    depth = projector_depth(kind)
    channels, width = config.vision_config.hidden_size, config.text_config.hidden_size
    if kind == USUAL:
        return None
    if kind == "linear":
        return nn.Linear(channels, width)
    if depth == 0:
        if channels != width:
            raise ValueError(
                f"mm_projector_type 'identity': the tower has {channels} channels, and the language model {width}"
            )
        return nn.Identity()
    return Perceptron(depth, channels, width)


__all__ = ["USUAL", "Perceptron", "other_projector", "projector_depth", "projector_type"]
