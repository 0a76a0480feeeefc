"""The compressors alone, on the features of a real-sized CLIP, each beside its public code's way.

    python benchmarks/compressor.py --json compressor.json

CLIP ViT-L/14-336 has 577 tokens of 1024 channels, keys of 64. The floor of a method is what any implementation moves:
the optional features that the method asks for, read once; the rows that it keeps or merges, read once; the result,
written once. `of the tower` is the share of the time that the tower takes for the same batch, in the same run.
Methods that choose step by step are timed in parts as well, ours and the public code's way in turn: the similarity
matrix, and the loop over it. On CUDA the compressor is also captured in a graph and replayed, as an engine would.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from graphs import graph_of
from harness import is_h200, measure
from method_features import CHANNELS, floor_bytes, make_features
from report import Cell, Goal, Report
from torch import Tensor
from towers import Tower, llava_way
from tqdm import tqdm
from way_parts import Parts, compare_parts

from llava import CompressionConfig
from llava.analysis.counting import Counts, count
from llava.model.multimodal_compressor import (
    BoundCompressor,
    TileShape,
    VisionFeatures,
    available_compressors,
    get_compressor,
)

_GRID, _SMALL, _LARGE = (24, 24), (16, 16), (32, 32)  # CLIP's patches; growth is from 256 to 1024
_SLOWER = 1.05  # of a public way's time, at most
# They read attention or keys, and compare patches.
_COMPARING = ("vispruner", "prumerge", "prumerge_plus", "scope", "coverage", "tome")
_COVER_OVER_SCOPE = 1.5  # of SCOPE's time, at most: the same loop, and what is left merged


@dataclass(frozen=True)
class Figures:
    """One method at one batch size.

    Attributes:
        median_ms: Of one call, run eagerly.
        graph_us: Of one replay of a captured graph; None without CUDA.
        counts: What one call asks for.
        bytes_over_floor: Bytes moved / the floor.
        share_of_tower: Time / the tower's; None where the tower was not run.
        growth: Of the time with four times as many patches, and with twice as many kept tokens; None unless batch 1.
        parts: Beside the public way; None where that is no loop.
    """

    budget: CompressionConfig
    batch: int
    median_ms: float
    graph_us: float | None
    counts: Counts
    bytes_over_floor: float
    share_of_tower: float | None
    growth: tuple[float, float] | None
    parts: Parts | None


def shape_of(grid: tuple[int, int]) -> TileShape:
    """A tile of CLIP's."""
    return TileShape(grid, saliency_has_cls=True, keep_cls=True, projected_width=CHANNELS)


def budget_of(name: str, tokens: int) -> CompressionConfig:
    """A method's budget, by `rule=distinct` where that of its public code does not fit all grids that are measured."""
    contextual = max(1, tokens * 10 // 64) if name == "visionzip" else 0  # the paper's proportion
    budget = CompressionConfig(name, tokens - contextual, contextual)
    try:
        for grid in (_GRID, _SMALL, _LARGE):
            get_compressor(name).check(budget, shape_of(grid))
    except ValueError:
        return replace(budget, options={"rule": "distinct"})
    return budget


def bind(budget: CompressionConfig, grid: tuple[int, int]) -> BoundCompressor:
    """A method on tiles of so many patches."""
    return get_compressor(budget.method).bind(budget, shape_of(grid))


def features_for(bound: BoundCompressor, batch: int, grid: tuple[int, int], args: argparse.Namespace) -> VisionFeatures:
    """A method's features: those of the shrunk picture, where it shrinks it."""
    return make_features(batch, args.device, getattr(torch, args.dtype), bound.grid or grid)


def compare(
    batch: int, budgets: Sequence[CompressionConfig], tower: Tower | None, args: argparse.Namespace
) -> list[Figures]:
    """Measures all methods at one batch size in turn, and then the tower if it is given."""
    bounds = {str(budget): bind(budget, _GRID) for budget in budgets}
    shared = make_features(batch, args.device, getattr(torch, args.dtype), _GRID)
    given = {name: features_for(bound, batch, _GRID, args) if bound.grid else shared for name, bound in bounds.items()}
    sides: dict[str, Callable[[], Tensor]] = {
        name: lambda bound=bound, features=given[name]: bound(features).tokens  # type: ignore[misc]
        for name, bound in bounds.items()
    }
    times = {"warmup": args.warmup, "repeats": args.repeats}
    found = measure(sides, args.device, **times)
    tower_ms = None
    if tower is not None:
        pixels = tower.pixels(batch)
        tower_ms = measure({"tower": lambda: llava_way(tower, pixels)}, args.device, warmup=0, repeats=2, memory=False)
    graphs = {}
    if args.device.type == "cuda":
        replays = {name: graph_of(work, args.device).replay for name, work in sides.items()}
        graphs = measure(replays, args.device, **times)
    rows = []
    for name, bound in bounds.items():
        counts = count(sides[name])
        rows.append(
            Figures(
                budget=bound.budget,
                batch=batch,
                median_ms=found[name].ms.median,
                graph_us=1000 * graphs[name].ms.median if graphs else None,
                counts=counts,
                bytes_over_floor=counts.bytes_moved / floor_bytes(given[name], bound.budget),
                share_of_tower=found[name].ms.median / tower_ms["tower"].ms.median if tower_ms else None,
                growth=growth(bound.budget, args) if batch == 1 and bound.grid is None else None,
                parts=compare_parts(given[name], bound, args.device, **times),
            )
        )
    return rows


def growth(budget: CompressionConfig, args: argparse.Namespace) -> tuple[float, float]:
    """Time at four times as many patches, and at twice as many kept ones, over the time at batch 1."""
    twice = replace(budget, dominant=2 * budget.dominant, contextual=2 * budget.contextual)
    sides = {}
    for name, asked, grid in (("small", budget, _SMALL), ("large", budget, _LARGE), ("twice", twice, _SMALL)):
        bound = bind(asked, grid)
        features = features_for(bound, 1, grid, args)
        sides[name] = lambda bound=bound, features=features: bound(features)
    found = measure(sides, args.device, warmup=args.warmup, repeats=args.repeats, memory=False)
    large_x, twice_x = (1 / found[side].times_as_fast_as(found["small"]).median for side in ("large", "twice"))
    return large_x, twice_x


def report(found: Sequence[Figures], args: argparse.Namespace) -> Report:
    """The figures, and what the project asks of the methods."""
    own = [row for row in found if row.budget.method == "visionzip"]
    shares = [row.share_of_tower for row in own if row.share_of_tower is not None]
    single = next((row.graph_us for row in own if row.batch == 1), None)
    last = own[-1]
    return Report(
        benchmark="compressor",
        title="The compressors alone, on features of CLIP ViT-L/14-336",
        device=args.device,
        setting={"dtype": args.dtype, "tokens": args.tokens, "batches": args.batches},
        rows=[row_of(figures) for figures in found],
        ratios={
            "largest_share_of_tower": max(shares, default=None),
            "graph_us_at_batch_1": single,
            "kernels": last.counts.kernels,
        },
        goals=[*visionzip_goals(found, args), *fastest_goals(found), *coverage_goals(found), *way_goals(found, args)],
        notes=[
            "The floor reads what the method asks for and the rows that it keeps or merges once, and writes the result "
            f"once. VisionZip moves {last.bytes_over_floor:.1f} times as much: the rows to be merged are gathered into "
            "one block first, for a matrix product reads no scattered rows. Reading them in place would take a kernel "
            "of its own.",
            "On a GPU a single tile is bound by launches, of which a captured graph needs one.",
            "FasterVLM and HoloV sort attention and compare no patches, so they are faster than VisionZip.",
            "x at 4 N: time with 32 x 32 patches over that with 16 x 16; x at 2 K: with twice the kept tokens, 16 x 16 "
            "patches; both at batch 1.",
            "A public way is the public code's way written plainly, without its waits for the device; its total picks "
            "the rows too, as ours does. Sides take turns; ratios are medians over the rounds.",
        ],
    )


def row_of(figures: Figures) -> dict[str, Cell]:
    """A line of the table."""
    row: dict[str, Cell] = {
        "method": str(figures.budget),
        "batch": figures.batch,
        "ms": figures.median_ms,
        "graph us": figures.graph_us,
        "kernels": figures.counts.kernels,
        "MB moved": figures.counts.bytes_moved / 1e6,
        "over the floor": figures.bytes_over_floor,
        "% of the tower": None if figures.share_of_tower is None else 100 * figures.share_of_tower,
        "x at 4 N": figures.growth[0] if figures.growth else None,
        "x at 2 K": figures.growth[1] if figures.growth else None,
    }
    parts = figures.parts
    for number, name in enumerate(("matrix", "loop", "total")):
        row[f"{name} ms, ours / public"] = (
            f"{parts.ours[number].ms.median:.3g} / {parts.public[number].ms.median:.3g}" if parts else None
        )
    row["total, times as fast"] = parts.times_as_fast(2) if parts else None
    return row


def visionzip_goals(found: Sequence[Figures], args: argparse.Namespace) -> list[Goal]:
    """What is asked of VisionZip: next to nothing beside the tower, and the fastest of those that read attention."""
    own = [row for row in found if row.budget.method == "visionzip"]
    goals = [
        Goal(f"% of the tower's time, VisionZip, batch {row.batch}", 100 * row.share_of_tower, at_most=2)
        for row in own
        if row.share_of_tower is not None
    ]
    single = next((row.graph_us for row in own if row.batch == 1), None)
    shown = is_h200(args.device) and args.dtype == "bfloat16"
    note = "" if shown else "not measured: needs an H200; python benchmarks/compressor.py --batches 1 8 40"
    return [
        *goals,
        Goal("us, VisionZip captured in a graph, batch 1, H200", single if shown else None, at_most=60, note=note),
    ]


def fastest_goals(found: Sequence[Figures]) -> list[Goal]:
    """VisionZip is the fastest of those that read attention or keys and compare patches with each other."""
    goals = []
    for batch in dict.fromkeys(row.batch for row in found):
        rows = {row.budget.method: row.median_ms for row in found if row.batch == batch}
        next_ms = min((rows[name] for name in _COMPARING if name in rows), default=None)
        name = f"times as fast as the next method that compares patches, VisionZip, batch {batch}"
        if next_ms is not None:
            goals.append(Goal(name, next_ms / rows["visionzip"], at_least=1))
    return goals


def coverage_goals(found: Sequence[Figures]) -> list[Goal]:
    """Coverage has no public way; it is held against SCOPE, whose loop is the same and which merges nothing."""
    goals = []
    for batch in dict.fromkeys(row.batch for row in found):
        rows = {row.budget.method: row.median_ms for row in found if row.batch == batch}
        if {"coverage", "scope"} <= set(rows):
            over = rows["coverage"] / rows["scope"]
            goals.append(Goal(f"time over that of SCOPE, coverage, batch {batch}", over, at_most=_COVER_OVER_SCOPE))
    return goals


def way_goals(found: Sequence[Figures], args: argparse.Namespace) -> list[Goal]:
    """No method is slower than its public way; DivPrune's loop, and on a GPU every loop, is three times as fast."""
    goals = []
    for row in found:
        if row.parts is None:
            continue
        where = f"{row.budget.method}, batch {row.batch}"
        goals.append(
            Goal(f"total, times as fast as the public way, {where}", row.parts.times_as_fast(2), at_least=1 / _SLOWER)
        )
        if row.batch == 8 and (row.budget.method == "divprune" or args.device.type == "cuda"):
            goals.append(
                Goal(f"loop, times as fast as the public way's, {where}", row.parts.times_as_fast(1), at_least=3)
            )
    return goals


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="The compressors alone.")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 40])
    parser.add_argument("--tokens", type=int, default=64, help="kept by each method (default 64)")
    known = available_compressors()
    parser.add_argument("--methods", nargs="+", choices=known, default=known, help="beside VisionZip; default: all")
    parser.add_argument("--largest-tower-batch", type=int, help="beyond it the tower is not run; default: 8 on CPU")
    parser.add_argument("--device", type=torch.device, default=torch.accelerator.current_accelerator() or "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if min(args.batches) < 1 or not 11 <= args.tokens <= 576 or args.warmup < 0 or args.repeats < 2:
        parser.error("--batches at least 1, --tokens 11 to 576, --warmup at least 0, --repeats at least 2")
    on_cpu = args.device.type == "cpu"
    args.dtype = args.dtype or ("float32" if on_cpu else "bfloat16")
    largest = args.largest_tower_batch if args.largest_tower_batch is not None else (8 if on_cpu else max(args.batches))
    budgets = [budget_of(name, args.tokens) for name in known if name in {*args.methods, "visionzip"}]
    torch.manual_seed(0)
    tower = Tower.build("clip", args.device, getattr(torch, args.dtype))
    with torch.inference_mode():
        rows = [
            row
            for batch in tqdm(args.batches, desc="batches", leave=False)
            for row in compare(batch, budgets, tower if batch <= largest else None, args)
        ]
    report(rows, args).tell(args.json)


if __name__ == "__main__":
    main()
