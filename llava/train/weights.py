"""The weights of a model in training, whole on one process wherever DeepSpeed has put them."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn


def trained_names(model: nn.Module) -> set[str]:
    """The names of the parameters that learn."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def gather_state(model: nn.Module, names: Container[str] | None = None, *, keep: bool) -> dict[str, Tensor]:
    """Copies parameters and buffers to the CPU. Under ZeRO-3 every process must call it.

    Args:
        model: Not wrapped.
        names: Of those that are wanted; all by default.
        keep: Whether this process wants them; others only take part.

    Returns:
        Tensors by name, whole; none without `keep`.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if names is not None and name not in names:
            continue
        with whole([tensor]):
            if keep:
                state[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return state


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Writes tensors into the parameters of a model. Under ZeRO-3 every process must call it, with the same tensors.

    Raises:
        KeyError: The model has no parameter of a name.
    """
    import torch

    parameters = dict(model.named_parameters())
    for name, value in state.items():
        parameter = parameters[name]
        with whole([parameter], is_modified=True), torch.no_grad():
            parameter.copy_(value)


def whole(tensors: Sequence[Tensor], is_modified: bool = False) -> AbstractContextManager[Any]:
    """Makes parameters whole for a while, if ZeRO-3 has split them; then every process must call it.

    Args:
        tensors: All of them split, or none.
        is_modified: Whether the first process writes into them.
    """
    if not any(map(_is_sharded, tensors)):
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
        tensors, modifier_rank=0 if is_modified else None
    )
    return gathered


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "ds_id")  # DeepSpeed marks the parameters that ZeRO-3 has split
