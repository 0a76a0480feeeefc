"""A dispatch mode that finds tensors on the wrong device where no device is at hand.

On `meta` tensors every operation runs without data. `meta` alone lets an index on the CPU pass, which a GPU would
refuse or copy; under this mode it is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MetaClean(TorchDispatchMode):
    """Fails on an operation that mixes `meta` tensors with others; tensors without axes, of Python's numbers, may mix.

    Raises:
        AssertionError: Names the operation and the shapes of what is not on `meta`.
    """

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, torch.Tensor)]
        strays = [tensor for tensor in given if tensor.device.type != "meta" and tensor.dim()]
        if strays and len(strays) < len(given):
            shapes = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in strays)
            raise AssertionError(f"{func} mixes devices: {shapes}")
        return func(*args, **kwargs)
