"""Counted, not measured: what a prompt costs the real models at every budget, and the paper's own formula beside it.

    python benchmarks/cost.py --json cost.json

Operations are two a multiply-accumulate, by formulas that a test holds against torch's own count; cache and weights
are in half precision. The prompt is a question of POPE with one image, of 672 x 672 for LLaVA-NeXT. `least` is the time
that the prefill's operations, or reading the weights once, take at the peak of a GPU's data sheet: what no code can
beat. The paper's formula leaves out the head and a third of the FFN and counts multiply-accumulates; it serves to
redraw its curve.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from limits import data_sheet
from models import MODELS, NAMES, Config, model_config
from prompts import BUDGETS, TEXT_TOKENS, TILES, family_of, projected_tokens, prompt_tokens
from report import Cell, Report

from llava.model.flops import decoder_parameters, kv_bytes, paper_flops, prefill_flops, vision_flops

HALF = 2  # bytes
TERA, GIGA, MIB = 1e12, 1e9, 2**20


def row(model: str, config: Config, tokens: str, gpu: str) -> dict[str, Cell]:
    """A line of the table; `tokens` of `BUDGETS`, or 0 for the text alone."""
    family, limits = family_of(model), data_sheet(gpu)
    has_image = tokens != "0"
    budget = BUDGETS[family][tokens] if has_image else None
    length = prompt_tokens(config, model, budget) if has_image else TEXT_TOKENS
    vision = vision_flops(config, TILES[family], projected_tokens(config, model, budget)) if has_image else 0
    whole = prompt_tokens(config, model, None)
    prefill, paper, weights = prefill_flops(config, length), paper_flops(config, length), decoder_parameters(config)
    return {
        "model": NAMES[model],
        "tokens": int(tokens),
        "prompt": length,
        "vision TFLOP": vision / TERA,
        "prefill TFLOP": prefill / TERA,
        "times less": prefill_flops(config, whole) / prefill,
        "paper's TFLOP": paper / TERA,
        "paper's times less": paper_flops(config, whole) / paper,
        f"least on {gpu}, ms": limits.floor_ms(prefill, weights * HALF),
        "weights GB": weights * HALF / GIGA,
        "KV MiB": kv_bytes(config, length, HALF) / MIB,
    }


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Operations and bytes of a prompt at every budget, counted.")
    parser.add_argument("--model", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--gpu", default="H200", help="whose data sheet gives the least time (default H200)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for model in args.model:
        config = model_config(model)
        rows += [row(model, config, tokens, args.gpu) for tokens in [*BUDGETS[family_of(model)], "0"]]
    at = {(line["model"], line["tokens"]): line for line in rows}
    next_7b = at.get((NAMES["next-7b"], 160), {})
    Report(
        "cost",
        "What a prompt costs, counted",
        torch.device("cpu"),
        {"prompt": "POPE", "bytes of a number": HALF},
        rows,
        {"prefill_flops_ratio_next_7b_2880_to_160": next_7b.get("times less")},  # type: ignore[dict-item]
        notes=[
            "Operations fall less than visual tokens do: the prompt's 62 text tokens stay, and vision costs the same.",
        ],
    ).tell(args.json)


if __name__ == "__main__":
    main()
