"""Vision, prefill, decoding and cache of LLaVA-1.5 and LLaVA-NeXT, 7B and 13B, at every budget of the paper.

    python benchmarks/prefill.py --json prefill.json

Weights are random and made where they are used: on a GPU models of real size in bf16, on a CPU ones with a quarter of
the widths and an eighth of the layers in fp32; tokens are the real ones in both. The prompt is a question of POPE.
Totals are sums: vision, prefill, and a decode step for each token of the answer but the first. The floor of a part is
the time that its counted operations take at the device's peak, or that reading weights and cache once takes at its
bandwidth, whichever is longer; the gap is how many times that was measured. `graph` is the language model replayed from
a captured CUDA graph; gaps and totals take the faster way.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from harness import is_h200
from limits import Limits, gap, limits_of
from models import MODELS, NAMES, SIZES, model_config, random_model
from prompts import BUDGETS, POPE_ANSWER_TOKENS, TILES, family_of, projected_tokens, prompt_tokens
from report import Cell, Goal, Report
from stages import Stages, Stopwatch, measure_stages
from tqdm import tqdm

from llava.model.flops import decode_flops, decoder_parameters, kv_bytes, prefill_flops, vision_flops

LONG_ANSWER_TOKENS = 128
PAPER_PREFILL_MS = {"2880": 218.0, "160": 27.8}  # LLaVA-NeXT-7B, POPE, one A800
CROSSED = "pope_ratio_next_7b_at_2880_to_13b_at_160"
MIB = 2**20
NOTES = (
    "The 2,880 tokens of LLaVA-NeXT are 2,928 rows of the prompt, for it puts a newline after each row of patches.",
    "The paper's prefill is its Table 4, on an A800, with other code.",
)


def row(point: Stages, limits: Limits, dtype: torch.dtype, size: str) -> dict[str, Cell]:
    """A line of the table: every part with its floor and the gap between them."""
    config = model_config(point.model, size)
    budget, element, batch = BUDGETS[family_of(point.model)][point.tokens], dtype.itemsize, point.batch
    length = prompt_tokens(config, point.model, budget)
    weights, cache = decoder_parameters(config) * element, kv_bytes(config, length, element) * batch
    seen = vision_flops(config, TILES[family_of(point.model)], projected_tokens(config, point.model, budget))
    vision_floor = limits.floor_ms(batch * seen)
    prefill_floor = limits.floor_ms(batch * prefill_flops(config, length), weights)
    decode_floor = limits.floor_ms(batch * decode_flops(config, length), weights + cache)
    in_paper = PAPER_PREFILL_MS.get(point.tokens) if (point.model, batch, size) == ("next-7b", 1, "real") else None
    return {
        "model": NAMES[point.model] + ("" if size == "real" else ", scaled down"),
        "tokens": int(point.tokens),
        "batch": batch,
        "prompt": length,
        "vision ms": point.vision,
        "vision floor": vision_floor,
        "vision gap": gap(point.vision, vision_floor),
        "prefill ms": point.prefill,
        "prefill graph ms": point.prefill_graph,
        "prefill floor": prefill_floor,
        "prefill gap": gap(point.best_prefill, prefill_floor),
        "paper's prefill ms": in_paper,
        "step ms": point.decode,
        "step graph ms": point.decode_graph,
        "step floor": decode_floor,
        "step gap": gap(point.best_decode, decode_floor),
        "KV MiB": cache / MIB,
        "POPE ms": point.total(POPE_ANSWER_TOKENS),
        f"{LONG_ANSWER_TOKENS} tokens ms": point.total(LONG_ANSWER_TOKENS),
    }


def ratios_of(points: Sequence[Stages]) -> dict[str, float | None]:
    """What compression gains at batch 1; None where a side was not measured."""
    at = {(point.model, point.tokens): point for point in points if point.batch == 1}

    def ratio(slow: str, fast: str, of: Callable[[Stages], float | None]) -> float | None:
        sides = [at.get((name.rpartition(" ")[0], name.rpartition(" ")[2])) for name in (slow, fast)]
        values = [None if side is None else of(side) for side in sides]
        return values[0] / values[1] if values[0] and values[1] else None

    def on_pope(point: Stages) -> float | None:
        return point.total(POPE_ANSWER_TOKENS)

    return {
        "prefill_ratio_next_7b_2880_to_160": ratio("next-7b 2880", "next-7b 160", lambda point: point.best_prefill),
        "prefill_ratio_15_7b_576_to_64": ratio("1.5-7b 576", "1.5-7b 64", lambda point: point.best_prefill),
        "pope_ratio_next_7b_2880_to_160": ratio("next-7b 2880", "next-7b 160", on_pope),
        CROSSED: ratio("next-7b 2880", "next-13b 160", on_pope),
    }


def goals_of(ratios: dict[str, float | None], size: str, device: torch.device) -> list[Goal]:
    """The GPU's, and the same of scaled-down models or other machines where those were run."""
    shown = size == "real" and is_h200(device)
    here = "H200" if shown else "real size" if size == "real" else "scaled down"
    prefill = "NeXT-7B from 2880 to 160 tokens: prefill, times faster"
    crossed = "NeXT-13B at 160 against NeXT-7B at 2880 tokens, POPE end to end, times faster"
    counted = f"operations alone would give {operations_ratio(size):.1f}"
    goals = [
        Goal(f"{prefill}, {here}", ratios["prefill_ratio_next_7b_2880_to_160"], at_least=8, note=counted),
        Goal(f"{crossed}, {here}", ratios[CROSSED], at_least=1),
    ]
    asked, note = ((prefill, 8), (crossed, 1)), "not measured: needs an H200"
    unmeasured = [Goal(f"{name}, H200", None, at_least=least, note=note) for name, least in asked]
    return goals if shown else goals + unmeasured


def operations_ratio(size: str) -> float:
    """Operations of NeXT-7B's prefill at 2,880 tokens over those at 160; more where attention's share is larger."""
    config = model_config("next-7b", size)
    most, fewest = (prompt_tokens(config, "next-7b", BUDGETS["next"][tokens]) for tokens in ("2880", "160"))
    return prefill_flops(config, most) / prefill_flops(config, fewest)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Vision, prefill, decoding and cache at every budget of the paper.")
    parser.add_argument("--model", nargs="+", choices=MODELS, help="all; on a CPU all but 1.5-13b")
    parser.add_argument("--size", choices=sorted(SIZES), help="small on a CPU, else real")
    parser.add_argument("--batch", type=int, nargs="+", help="1 8 32; on a CPU 1")
    parser.add_argument("--attention", default="sdpa", help="of the language model")
    parser.add_argument("--device", type=torch.device, default=torch.accelerator.current_accelerator() or "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="float32 on CPU, else bfloat16")
    parser.add_argument("--warmup", type=int, help="1; on a CPU 0, each side being run once beforehand in any case")
    parser.add_argument("--repeats", type=int, help="6; on a CPU 4")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    on_cpu = args.device.type == "cpu"
    names = args.model or [name for name in MODELS if not on_cpu or name != "1.5-13b"]
    batches = args.batch or ([1] if on_cpu else [1, 8, 32])
    warmup = args.warmup if args.warmup is not None else 0 if on_cpu else 1
    repeats = args.repeats if args.repeats is not None else 4 if on_cpu else 6
    if min(batches) < 1 or warmup < 0 or repeats < 2:
        parser.error("--batch must be at least 1, --warmup at least 0 and --repeats at least 2")
    dtype = getattr(torch, args.dtype or ("float32" if on_cpu else "bfloat16"))
    size = args.size or ("small" if on_cpu else "real")

    torch.manual_seed(0)
    limits, watch, points = limits_of(args.device), Stopwatch(args.device, warmup, repeats), []
    for name in tqdm(names, desc="models", leave=False):
        model = random_model(model_config(name, size), args.device, dtype, args.attention)
        points += [point for batch in batches for point in measure_stages(model, name, batch, watch)]
        del model  # before the next one is made
    if on_cpu:
        limits = limits.at_best(limits_of(args.device))  # other work may have held back the first measurement
    ratios = ratios_of(points)
    Report(
        "prefill",
        "The stages of an answer, from pixels to the last token",
        args.device,
        {"dtype": str(dtype).removeprefix("torch."), "attention": args.attention, "peak": limits.source},
        [row(point, limits, dtype, size) for point in points],
        ratios,
        goals_of(ratios, size, args.device),
        NOTES,
    ).tell(args.json)


if __name__ == "__main__":
    main()
