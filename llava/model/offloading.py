"""Weights that accelerate keeps elsewhere (CPU, disk) and brings in when their module is called."""

from __future__ import annotations

from torch import Tensor, nn


def like_weights(tensor: Tensor, module: nn.Module, *, cast: bool = False) -> Tensor:
    """A tensor on the device of a module's weights; where these are offloaded, the module's hook will move it.

    Args:
        tensor: Input of the module.
        module: One without weights takes any tensor.
        cast: Whether to take the dtype of the weights as well.
    """
    weight = next(module.parameters(), None)
    if weight is None:
        return tensor
    dtype = tensor.dtype
    if cast:  # quantised weights are integers; what they are multiplied with is like the biases and norms
        dtype = next((each.dtype for each in module.parameters() if each.is_floating_point()), dtype)
    return tensor.to(dtype=dtype) if weight.is_meta else tensor.to(device=weight.device, dtype=dtype)


def own_parameter(module: nn.Module, name: str) -> Tensor | None:
    """A parameter of the module itself, brought in if it is offloaded; None if there is none of that name."""
    parameter = getattr(module, name, None)
    if parameter is None or not parameter.is_meta:
        return parameter
    from accelerate.utils import align_module_device

    with align_module_device(module):
        return getattr(module, name).detach().clone()
