"""What a piece of work asks of a machine: kernels, operations, bytes. The same whatever else runs there."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


@dataclass(frozen=True)
class Counts:
    """What one run of a piece of work asked for.

    Attributes:
        kernels: Calls of torch's operators that compute or copy; views and bare allocations are none. Run eagerly, a
            GPU launches about one kernel for each.
        flops: Floating-point operations of matrix products and attention, two a multiply-accumulate.
        bytes_moved: Bytes that these calls read and write, each tensor once a call.
        peak_bytes: Most bytes that were allocated by the work at a time, results included.
    """

    kernels: int
    flops: int
    bytes_moved: int
    peak_bytes: int


def count(work: Callable[[], object], memory_of: str | None = None) -> Counts:
    """Runs a piece of work once and counts.

    Args:
        work: What is to be counted; runs as it always does, slower.
        memory_of: The kind of device whose bytes are counted as peak; all if None, torch's meta device among them.
    """
    counter = _Counter(memory_of)
    flops = FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_CPU)
    with flops, counter:
        result = work()
    del result
    return Counts(counter.kernels, flops.get_total_flops(), counter.bytes_moved, counter.peak_bytes)


def _attention_flops(query: Any, key: Any, value: Any, *_args: Any, out_shape: Any = None, **_kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


# The one attention kernel that torch's counter leaves out.
_ATTENTION_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


class _Counter(TorchDispatchMode):
    """Sees every operator that torch calls below autograd."""

    def __init__(self, memory_of: str | None) -> None:
        super().__init__()
        self.memory_of = memory_of
        self.kernels = 0
        self.bytes_moved = 0
        self.peak_bytes = 0
        self._live: dict[weakref.ref[Any], int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        inputs = {id(leaf): leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)}.values()
        outputs = [leaf for leaf in tree_iter(output) if isinstance(leaf, Tensor)]
        given = {leaf.untyped_storage()._cdata for leaf in inputs}
        made = [leaf for leaf in outputs if leaf.untyped_storage()._cdata not in given]
        if func._schema.is_mutable or (made and not func._schema.name.startswith("aten::empty")):
            self.kernels += 1
            self.bytes_moved += sum(map(_size, [*inputs, *outputs]))
        for leaf in made:
            if self.memory_of in (None, leaf.device.type):
                self._allocated(leaf.untyped_storage())
        return output

    def _allocated(self, storage: torch.UntypedStorage) -> None:
        """Adds a storage for as long as it lives."""
        reference = weakref.ref(storage, lambda gone: self._live.pop(gone, None))
        if reference not in self._live:
            self._live[reference] = storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, sum(self._live.values()))


def _size(tensor: Tensor) -> int:
    """Bytes of a tensor; what is only expanded is in memory once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
