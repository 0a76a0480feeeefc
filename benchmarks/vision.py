"""Vision tower and compression: LLaVA's way, the released VisionZip's way, and ours, on towers of real size.

    python benchmarks/vision.py --batch 8 --json vision.json
    python benchmarks/vision.py --tower siglip --batch 1 8 --json vision_siglip.json

Weights are random. Beside every measured ratio stands the one that the operations alone would give: all of a tower's
layers but the last must run whoever runs them, so against LLaVA's way little can be won, and nothing must be lost.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from harness import Measurement, Spread, is_h200, measure
from limits import Limits, gap, limits_of
from report import Cell, Goal, Report
from torch import Tensor
from towers import Tower, llava_way, our_way, visionzip_way
from tqdm import tqdm

from llava import CompressionConfig
from llava.analysis.counting import Counts, count

_MIB = 2**20


@dataclass(frozen=True)
class Batch:
    """What was found at one batch size, by side: `vanilla`, `reference`, `ours`.

    Attributes:
        size: Images a pass.
        times: Measured.
        counts: Of one image; operations and memory of a batch are as many times as much, for no tensor that a side
            makes is shared by its images.
        on_cuda: Whether memory is the allocator's.
        limits: Of the device.
    """

    size: int
    times: dict[str, Measurement]
    counts: dict[str, Counts]
    on_cuda: bool
    limits: Limits

    def time_ratio(self, side: str) -> Spread:
        """How many times as long as ours a side takes."""
        return self.times["ours"].times_as_fast_as(self.times[side])

    def flops_ratio(self, side: str) -> float:
        """What `time_ratio` would be if only operations counted."""
        return self.counts[side].flops / self.counts["ours"].flops

    def floor_ms(self, side: str) -> float | None:
        """The least time of a side's operations."""
        return self.limits.floor_ms(self.size * self.counts[side].flops)

    def memory_ratio(self, side: str) -> float:
        """How many times our extra memory a side takes."""
        return self.peak_mib(side) / self.peak_mib("ours")

    def peak_mib(self, side: str) -> float:
        """The allocator's figure on CUDA; on a CPU, whose allocator keeps what was freed, what was counted."""
        measured = self.times[side].peak_mib
        counted = self.size * self.counts[side].peak_bytes / _MIB
        return measured if self.on_cuda and measured is not None else counted

    def rows(self) -> list[dict[str, Cell]]:
        """For the report."""
        return [
            {
                "batch": self.size,
                "side": side,
                "rounds, ms": " ".join(f"{one:.4g}" for one in time.times_ms),
                "median ms": time.ms.median,
                "floor ms": self.floor_ms(side),
                "gap": gap(time.ms.median, self.floor_ms(side)),
                "time / ours": self.time_ratio(side).median,
                "spread": str(self.time_ratio(side)),
                "GFLOP": self.size * self.counts[side].flops / 1e9,
                "operations / ours": self.flops_ratio(side),
                "extra peak MiB": self.peak_mib(side),
                "kernels": self.counts[side].kernels,
            }
            for side, time in self.times.items()
        ]


def sides_of(tower: Tower, batch: int, budget: CompressionConfig) -> dict[str, Callable[[], Tensor]]:
    """The three ways, about the same images."""
    pixels = tower.pixels(batch)
    return {
        "vanilla": lambda: llava_way(tower, pixels),
        "reference": lambda: visionzip_way(tower, pixels, budget.dominant, budget.contextual),
        "ours": lambda: our_way(tower, pixels, budget),
    }


def count_sides(tower: Tower, budget: CompressionConfig) -> dict[str, Counts]:
    """Counts what each side asks for about one image, and refuses to compare sides that compute different things."""
    tokens: dict[str, Tensor] = {}

    def kept(name: str, work: Callable[[], Tensor]) -> Callable[[], None]:
        return lambda: tokens.update({name: work()})

    counts = {name: count(kept(name, work)) for name, work in sides_of(tower, 1, budget).items()}
    if tokens["ours"].dtype == torch.float32:
        torch.testing.assert_close(tokens["ours"], tokens["reference"], atol=1e-3, rtol=1e-3)
    return counts


def goals(tower: Tower, found: Sequence[Batch], device: torch.device, dtype: str) -> list[Goal]:
    """What the project asks for, at each batch."""
    on_h200, on_cpu = is_h200(device) and dtype == "bfloat16", device.type == "cpu" and dtype == "float32"
    result = []
    for batch in found:
        if on_h200 or on_cpu:
            where, least_time, least_memory = ("H200 bf16", 2.5, 20) if on_h200 else ("CPU fp32", 1.2, 8)
            floor = batch.floor_ms("ours")
            at_floor = batch.times["reference"].ms.median / floor if floor else None
            note = f"spread {batch.time_ratio('reference')}; were ours at its floor, {at_floor:.3g}" if at_floor else ""
            ratio = batch.time_ratio("reference").median
            name = f"of the reference's way / ours, {where}, batch {batch.size}"
            result.append(Goal(f"time {name}", ratio, least_time, note=note))
            result.append(Goal(f"extra memory {name}", batch.memory_ratio("reference"), least_memory))
        spread = batch.time_ratio("vanilla")
        note = f"spread {spread}; operations alone would give {batch.flops_ratio('vanilla'):.3f}"
        result.append(Goal(f"time of LLaVA's way / ours, batch {batch.size}", spread.median, 1, note=note))
    if not on_h200:
        note = "not measured: needs an H200; python benchmarks/vision.py --batch 1 8 40"
        result.append(Goal("time of the reference's way / ours, H200 bf16", None, 2.5, note=note))
        result.append(Goal("extra memory of the reference's way / ours, H200", None, 20, note=note))
    return [replace(goal, name=f"{tower.title}: {goal.name}") for goal in result]


def notes(tower: Tower, last: Batch) -> list[str]:
    """Why the figures are what they are."""
    layers = tower.config.num_hidden_layers
    score = "CLS's row of the attention map" if tower.has_cls else "one layer's attention map, in blocks of 128 rows,"
    return [
        f"Ours runs {layers - 1} of {layers} layers, and computes keys and {score} once more beside the last of them. "
        f"If operations alone counted, it would be {last.flops_ratio('vanilla'):.3f} times as fast as LLaVA's way and "
        f"{last.flops_ratio('reference'):.3f} times as fast as the reference's. Sharing that layer's projections "
        "would win less than 1 %, and its attention would have to be run here, not by transformers' module.",
        "What the reference loses beyond its operations is memory traffic: every layer writes and reads its attention "
        "map three times, and keeps it. The linear layers are the same on all sides; on a CPU they are nearly all of "
        "the time, so the ratio there is small, and on a GPU larger.",
        "The reference runs on transformers' eager attention of today, whose softmax is in fp32 for any model. With "
        "one in half precision it would be faster on a GPU.",
        "Ours peaks in a layer's MLP, whose activation is four times as wide as the tokens.",
        "Extra memory is what a run needs above what was held before: the allocator's figure on CUDA; on a CPU counted "
        "tensor by tensor for one image, because the system's figure hides what the allocator kept of earlier runs.",
    ]


def rounds_of(batches: Sequence[int], repeats: Sequence[int]) -> list[tuple[int, int]]:
    """Batch sizes, the smallest first, each with its rounds.

    Args:
        batches: All different.
        repeats: One number for all of them, or one for each.

    Raises:
        ValueError: They do not go together, or a number is too small.
    """
    if min(batches) < 1 or len(set(batches)) < len(batches):
        raise ValueError(f"--batch {' '.join(map(str, batches))}: give sizes of at least 1, each once")
    if min(repeats) < 2 or len(repeats) not in (1, len(batches)):
        told = " ".join(map(str, repeats))
        raise ValueError(f"--repeats {told}: give one number, or one for each size of --batch, at least 2 each")
    return sorted(zip(batches, repeats if len(repeats) > 1 else [*repeats] * len(batches), strict=True))


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Vision tower and compression, three ways.")
    parser.add_argument("--tower", choices=["clip", "siglip"], default="clip")
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[1], help="images a pass; the largest one's ratios lead"
    )
    parser.add_argument("--compression", type=CompressionConfig.parse, default="visionzip:54+10")
    parser.add_argument("--device", type=torch.device, default=torch.accelerator.current_accelerator() or "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="float32 on CPU, else bfloat16")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, nargs="+", default=[8], help="of all batches, or of each in its turn")
    parser.add_argument("--json", type=Path)
    return parser


def main() -> None:
    """Runs the command line."""
    parser = make_parser()
    args = parser.parse_args()
    budget = args.compression
    if budget is None or budget.method != "visionzip" or not budget.contextual or budget.merge != "reference":
        parser.error(f"--compression {budget or 'none'}: the sides are compared under visionzip:dominant+contextual")
    if args.warmup < 0:
        parser.error("--warmup must be at least 0")
    try:
        rounds = rounds_of(args.batch, args.repeats)
    except ValueError as error:
        parser.error(str(error))
    dtype = args.dtype or ("float32" if args.device.type == "cpu" else "bfloat16")

    torch.manual_seed(0)
    tower = Tower.build(args.tower, args.device, getattr(torch, dtype))
    with torch.inference_mode():
        counts = count_sides(tower, budget)
        on_cuda = args.device.type == "cuda"  # elsewhere the counted peak is told
        limits = limits_of(args.device)
        times = {}
        for batch, repeats in tqdm(rounds, "batches", leave=False):
            sides = sides_of(tower, batch, budget)
            times[batch] = measure(sides, args.device, warmup=args.warmup, repeats=repeats, memory=on_cuda)
    limits = limits.at_best(limits_of(args.device))  # on a CPU other work may have held back the first measurement
    found = [Batch(batch, measured, counts, on_cuda, limits) for batch, measured in times.items()]
    last = found[-1]
    Report(
        benchmark="vision",
        title=f"Vision tower and compression: {tower.title}",
        device=args.device,
        setting={
            "tower": tower.title,
            "batches": [batch.size for batch in found],
            "dtype": dtype,
            "compression": str(budget),
            "peak": limits.source,
        },
        rows=[row for batch in found for row in batch.rows()],
        ratios={
            "time_ratio_vs_reference": last.time_ratio("reference").median,
            "memory_ratio_vs_reference": last.memory_ratio("reference"),
            "time_ratio_vs_vanilla": last.time_ratio("vanilla").median,
        },
        goals=goals(tower, found, args.device, dtype),
        notes=notes(tower, last),
    ).tell(args.json)


if __name__ == "__main__":
    main()
