"""What a device can do at most, and the least time that work takes on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from llava.model.device_peaks import device_peak


@dataclass(frozen=True)
class Limits:
    """What a device does at most.

    Attributes:
        operations: Floating-point operations a second, two a multiply-accumulate; None if not known.
        bytes: Bytes a second that its memory gives; None if not known.
        source: Where the figures come from.
    """

    operations: float | None
    bytes: float | None
    source: str

    def at_best(self, other: Limits) -> Limits:
        """The higher of two measurements of the same device."""
        return Limits(
            max(self.operations or 0, other.operations or 0) or None,
            max(self.bytes or 0, other.bytes or 0) or None,
            self.source,
        )

    def floor_ms(self, operations: float, bytes_read: float = 0) -> float | None:
        """The least milliseconds for work: what it computes or what it must read, whichever takes longer."""
        if self.operations is None or self.bytes is None:
            return None
        return 1000 * max(operations / self.operations, bytes_read / self.bytes)


def limits_of(device: torch.device) -> Limits:
    """The data sheet on CUDA; elsewhere what large products reach now, in fp32."""
    if device.type == "cuda":
        return data_sheet(torch.cuda.get_device_name(device))
    square = torch.randn(2048, 2048, device=device)
    tall, vector = torch.randn(16384, 4096, device=device), torch.randn(4096, device=device)
    return Limits(
        2 * 2048**3 / _fastest(lambda: square @ square),
        tall.numel() * tall.element_size() / _fastest(lambda: tall @ vector),
        "measured: a product of 2048 x 2048 matrices, a vector times a 256 MiB matrix, both fp32",
    )


def data_sheet(device_name: str) -> Limits:
    """Of a GPU, by what `torch.cuda.get_device_name` says."""
    peak = device_peak(device_name)
    operations, read = (None, None) if peak is None else (peak.tflops * 1e12, peak.terabytes * 1e12)
    return Limits(operations, read, f"data sheet of {device_name}: dense half precision, device memory")


def gap(measured_ms: float | None, floor_ms: float | None) -> float | None:
    """How many times the floor was measured."""
    return None if measured_ms is None or not floor_ms else measured_ms / floor_ms


def _fastest(work: Callable[[], object], runs: int = 15) -> float:
    """Seconds of the fastest run."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
