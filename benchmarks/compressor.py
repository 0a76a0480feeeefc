"""The compressors alone, on the features of a real-sized CLIP: time, kernels, bytes over the least that must move.

    python benchmarks/compressor.py --json compressor.json

CLIP ViT-L/14-336 has 577 tokens of 1024 channels, keys of 64. The floor of a method is what any implementation moves:
the optional features that the method asks for, read once; the rows that it keeps or merges, read once; the result,
written once. `of the tower` is the share of the time that the tower takes for the same batch, in the same run.
On CUDA the compressor is also captured in a graph and replayed, as a serving engine would.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from graphs import graph_of
from harness import is_h200, measure
from report import Cell, Goal, Report
from torch import Tensor
from towers import Tower, llava_way
from tqdm import tqdm

from llava import CompressionConfig
from llava.analysis.counting import Counts, count
from llava.model.multimodal_compressor import QuestionEmbeds, VisionFeatures, available_compressors, get_compressor

GRID, CHANNELS, KEY_CHANNELS, WORDS = (24, 24), 1024, 64, 16


@dataclass(frozen=True)
class Figures:
    """One method at one batch size.

    Attributes:
        median_ms: Of one call, run eagerly.
        graph_us: Of one replay of a captured graph; None without CUDA.
        counts: What one call asks for.
        bytes_over_floor: Bytes moved / the floor.
        share_of_tower: Time / the tower's; None where the tower was not run.
    """

    method: str
    batch: int
    median_ms: float
    graph_us: float | None
    counts: Counts
    bytes_over_floor: float
    share_of_tower: float | None


def make_features(batch: int, device: torch.device, dtype: torch.dtype) -> VisionFeatures:
    """Random features of the real shapes, with all that a method may ask for."""
    patches = GRID[0] * GRID[1]
    content = torch.randn(batch, patches + 1, CHANNELS, device=device, dtype=dtype)
    return VisionFeatures(
        content=content,
        grid=GRID,
        has_cls=True,
        source=content[:, 1:],
        saliency_has_cls=True,
        keys=torch.randn(batch, patches + 1, KEY_CHANNELS, device=device, dtype=dtype),
        saliency=torch.rand(batch, patches, device=device, dtype=torch.float32),
        digest=torch.randint(2**62, (batch,), device=device),
        image_index=torch.arange(batch, device=device),
        padding=torch.zeros(batch, patches, dtype=torch.bool, device=device),
        question_embeds=QuestionEmbeds(
            torch.randn(batch, WORDS, CHANNELS, device=device, dtype=dtype),
            torch.ones(batch, WORDS, dtype=torch.bool, device=device),
        ),
    )


def floor_bytes(features: VisionFeatures, budget: CompressionConfig) -> int:
    """The least that must move: what is needed is read, the tokens are written.

    A method that merges reads every row, one that only picks reads the rows that it keeps.
    """
    needs = get_compressor(budget.method).needs
    asked = [getattr(features, name) for name in sorted(needs)]
    read = sum(tensor.numel() * tensor.element_size() for tensor in asked)
    hidden = features.content
    row = hidden.shape[0] * hidden.shape[2] * hidden.element_size()
    rows = hidden.shape[1] if budget.contextual else budget.num_tokens
    return read + (rows + budget.num_tokens) * row


def compare(
    batch: int, budgets: Sequence[CompressionConfig], tower: Tower | None, args: argparse.Namespace
) -> list[Figures]:
    """Measures all methods at one batch size in turn, and then the tower if it is given."""
    dtype = getattr(torch, args.dtype)
    features = make_features(batch, args.device, dtype)

    def side_of(budget: CompressionConfig) -> Callable[[], Tensor]:
        compressor = get_compressor(budget.method)
        return lambda: compressor(features, budget).tokens

    sides: dict[str, Callable[[], object]] = {str(budget): side_of(budget) for budget in budgets}
    found = measure(sides, args.device, warmup=args.warmup, repeats=args.repeats)
    tower_ms = None
    if tower is not None:
        pixels = tower.pixels(batch)
        tower_ms = measure({"tower": lambda: llava_way(tower, pixels)}, args.device, warmup=0, repeats=2, memory=False)
    graphs = {}
    if args.device.type == "cuda":
        replays = {name: graph_of(work, args.device).replay for name, work in sides.items()}
        graphs = measure(replays, args.device, warmup=args.warmup, repeats=args.repeats)
    rows = []
    for budget in budgets:
        name = str(budget)
        counts = count(sides[name])
        rows.append(
            Figures(
                method=name,
                batch=batch,
                median_ms=found[name].ms.median,
                graph_us=1000 * graphs[name].ms.median if graphs else None,
                counts=counts,
                bytes_over_floor=counts.bytes_moved / floor_bytes(features, budget),
                share_of_tower=found[name].ms.median / tower_ms["tower"].ms.median if tower_ms else None,
            )
        )
    return rows


def report(found: Sequence[Figures], args: argparse.Namespace) -> Report:
    """The figures, and what the project asks of VisionZip."""
    rows: list[dict[str, Cell]] = [
        {
            "method": row.method,
            "batch": row.batch,
            "ms": row.median_ms,
            "graph us": row.graph_us,
            "kernels": row.counts.kernels,
            "MB moved": row.counts.bytes_moved / 1e6,
            "over the floor": row.bytes_over_floor,
            "% of the tower": None if row.share_of_tower is None else 100 * row.share_of_tower,
        }
        for row in found
    ]
    visionzip = [row for row in found if row.method.startswith("visionzip")]
    goals = [
        Goal(f"% of the tower's time, VisionZip, batch {row.batch}", 100 * row.share_of_tower, at_most=2)
        for row in visionzip
        if row.share_of_tower is not None
    ]
    single = next((row.graph_us for row in visionzip if row.batch == 1), None)
    shown = is_h200(args.device) and args.dtype == "bfloat16"
    note = "" if shown else "not measured: needs an H200; python benchmarks/compressor.py --batches 1 8 40"
    goals.append(
        Goal("us, VisionZip captured in a graph, batch 1, H200", single if shown else None, at_most=60, note=note)
    )
    shares = [row.share_of_tower for row in visionzip if row.share_of_tower is not None]
    last = visionzip[-1]
    return Report(
        benchmark="compressor",
        title="The compressors alone, on features of CLIP ViT-L/14-336",
        device=args.device,
        setting={"dtype": args.dtype, "tokens": args.tokens, "batches": args.batches},
        rows=rows,
        ratios={
            "largest_share_of_tower": max(shares, default=None),
            "graph_us_at_batch_1": single,
            "kernels": last.counts.kernels,
        },
        goals=goals,
        notes=[
            "The floor reads what the method asks for and the rows that it keeps or merges once, and writes the result "
            f"once. VisionZip moves {last.bytes_over_floor:.1f} times as much: the rows to be merged are gathered into "
            "one block first, for a matrix product reads no scattered rows. Reading them in place would take a kernel "
            "of its own.",
            "On a GPU a single tile is bound by launches, of which a captured graph needs one.",
        ],
    )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="The compressors alone.")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 40])
    parser.add_argument("--tokens", type=int, default=64, help="kept by each method (default 64)")
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
    contextual = max(1, args.tokens * 10 // 64)  # the paper's proportion
    budgets = [
        CompressionConfig.parse(
            f"visionzip:{args.tokens - contextual}+{contextual}" if name == "visionzip" else f"{name}:{args.tokens}"
        )
        for name in available_compressors()
    ]
    torch.manual_seed(0)
    tower = Tower.build("clip", args.device, getattr(torch, args.dtype))
    with torch.inference_mode():
        rows = [
            row
            for batch in tqdm(args.batches, desc="batches", leave=False)
            for row in compare(batch, [b for b in budgets if b], tower if batch <= largest else None, args)
        ]
    report(rows, args).tell(args.json)


if __name__ == "__main__":
    main()
