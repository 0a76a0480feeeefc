"""Times and peak memory of several sides of one comparison, taken turn by turn in one process."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

_KIB = 1024


class Spread(NamedTuple):
    """Median of repeated measurements between their quartiles; of fewer than four, between lowest and highest."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of one value or more."""
        in_order = sorted(values)
        if len(in_order) < 4:
            return cls(in_order[0], statistics.median(in_order), in_order[-1])
        return cls(*statistics.quantiles(in_order, n=4, method="inclusive"))

    def __str__(self) -> str:
        return f"{self.low:.3g} to {self.high:.3g}"


@dataclass(frozen=True)
class Measurement:
    """One side of a comparison.

    Attributes:
        times_ms: Of each round's run, in their order: wall-clock, on CUDA between two of the device's own events.
        peak_mib: Memory above what was held before a run, at its highest; None where the system does not tell.
    """

    times_ms: tuple[float, ...]
    peak_mib: float | None

    @property
    def ms(self) -> Spread:
        """Milliseconds of a run."""
        return Spread.of(self.times_ms)

    def times_as_fast_as(self, other: Measurement) -> Spread:
        """The other side's time over this one's, round by round: a machine that is slower in a round is so for both.

        Of logarithms, so that neither side gains from noise: with the sides exchanged it is the reciprocal.
        """
        rounds = zip(other.times_ms, self.times_ms, strict=True)
        return Spread(*map(math.exp, Spread.of(math.log(theirs / own) for theirs, own in rounds)))


def measure(
    sides: Mapping[str, Callable[[], object]], device: torch.device, *, warmup: int, repeats: int, memory: bool = True
) -> dict[str, Measurement]:
    """Runs the sides in turn, so that whatever else the machine does meets all of them alike.

    Args:
        sides: Name -> work.
        device: What the work runs on.
        warmup: Rounds that are not counted; without one the last side runs once, lest the first be cold.
        repeats: Rounds that are, at least 2; in an even number every side precedes every other as often as it follows.
        memory: Whether to run each side once more for its peak.
    """
    for _ in range(warmup):
        for work in sides.values():
            work()
    if not warmup:
        [*sides.values()][-1]()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats):
        forth_and_back = [*sides.items()] if turn % 2 == 0 else [*sides.items()][::-1]
        for name, work in forth_and_back:
            times[name].append(_milliseconds(work, device))
    result = {}
    for name, work in sides.items():
        result[name] = Measurement(tuple(times[name]), _peak_mib(work, device) if memory else None)
    return result


def is_h200(device: torch.device) -> bool:
    """Whether goals that name this GPU can be shown here."""
    return device.type == "cuda" and "H200" in torch.cuda.get_device_name(device)


def machine(device: torch.device) -> dict[str, str]:
    """What the figures were measured on."""
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_cpu_name()}, {os.cpu_count()} cores"
    return {"device": chip, "torch": torch.__version__, "threads": str(torch.get_num_threads())}


def _milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one run, from a device that has nothing to do to one that has done it: its own events on CUDA."""
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return 1000 * (time.perf_counter() - start)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end))


def _peak_mib(work: Callable[[], object], device: torch.device) -> float | None:
    """Peak of one run above what was held before: the allocator's count on CUDA, the kernel's elsewhere."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return float(torch.cuda.max_memory_allocated(device) - before) / _KIB**2
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM (Linux)
    except OSError:
        return None
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / _KIB


def _status(entry: str) -> int:
    """KiB of an entry of this process's status (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry + ":"))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
