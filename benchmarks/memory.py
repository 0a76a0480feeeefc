"""Memory above the weights: LLaVA-NeXT-7B at 160 tokens in batches of 32, beside the reference's way in batches of 4.

    python benchmarks/memory.py --json memory.json
    python benchmarks/memory.py --model onevision-7b
    python benchmarks/memory.py --model mgm-7b

Counted on any machine: the model has its real size and no memory (torch's meta device), and what its operators allocate
is added up as long as it lives. On CUDA the allocator's own peaks stand beside. The reference's way runs all layers of
the tower eagerly and keeps every attention map and hidden state; its selection of tokens, which would add to that, is
left out; of Mini-Gemini it holds the second tower's map of the whole batch. Prefill and decoding are the same on both
sides.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import measure
from models import MGM, MODELS, NAMES, ONEVISION, model_config, random_model
from prompts import BUDGETS, family_of, make_prompt, prompt_tokens
from report import Cell, Goal, Report
from torch import Tensor
from transformers import AutoModel, DynamicCache

from llava.analysis.counting import count

MIB = 2**20
META = torch.device("meta")


@dataclass(frozen=True)
class Sides:
    """What runs, on one device.

    Attributes:
        name: The model's name in `MODELS`, `ONEVISION` or `MGM`.
        model: With its compression set.
        eager: The tower as the reference runs it.
        budget: The compression.
    """

    name: str
    model: Any
    eager: Any
    budget: str

    @classmethod
    def on(cls, device: torch.device, name: str, budget: str, dtype: torch.dtype) -> Sides:
        """Makes both."""
        model = random_model(model_config(name), device, dtype)
        model.set_compression(budget)
        vision = model_config(name).vision_config  # of its own: the attention is noted in it
        with torch.device(device):
            eager = AutoModel.from_config(vision, dtype=dtype, attn_implementation="eager").eval()
        return cls(name, model, eager, budget)

    def vision(self, side: str, batch: int) -> Callable[[], object]:
        """Pixels to what the language model is given."""
        prompt = make_prompt(self.model, self.name, batch)
        if side == "ours":
            return lambda: self.model.encode_images(prompt.images, prompt.image_sizes)
        pixels = self.model.model.seen_tiles(torch.stack(prompt.images).flatten(0, -4))  # (all tiles, 3, side, side)
        larger, second = torch.stack(prompt.images), getattr(self.model.model, "mining", None)

        def reference() -> object:
            found = self.eager(pixels, output_hidden_states=True, output_attentions=True)
            return found if second is None else (found, second.tower(larger))

        return reference

    def answer(self, batch: int, new_tokens: int) -> Callable[[], object]:
        """Prefill, and a decoding step behind so many new tokens."""
        length = prompt_tokens(self.model.config, self.name, self.budget)
        text = self.model.config.text_config
        heads, width = text.num_key_value_heads, text.hidden_size // text.num_attention_heads

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, device=self.model.device, dtype=self.model.dtype)

        def work() -> object:
            cache = DynamicCache(config=text)
            embeds = empty(batch, length, text.hidden_size)
            logits = self.model(inputs_embeds=embeds, past_key_values=cache, logits_to_keep=1).logits
            for number in range(text.num_hidden_layers if new_tokens > 1 else 0):
                cache.update(*[empty(batch, heads, new_tokens - 1, width)] * 2, number)
            step = empty(batch, 1, text.hidden_size)
            return logits, self.model(inputs_embeds=step, past_key_values=cache, logits_to_keep=1)

        return work


def row_of(sides: Sides, side: str, batch: int, measured: Sides | None) -> dict[str, Cell]:
    """Peaks of one side at one batch size, MiB."""
    works = {
        "vision": lambda on: on.vision(side, batch),
        "answer of 2": lambda on: on.answer(batch, 2),
        "answer of 128": lambda on: on.answer(batch, 128),
    }
    counted = {name: count(make(sides)).peak_bytes / MIB for name, make in works.items()}
    row: dict[str, Cell] = {"side": side, "batch": batch}
    row |= {f"{name}, MiB": value for name, value in counted.items()}
    row["peak with 2 tokens, MiB"] = max(counted["vision"], counted["answer of 2"])
    row["peak with 128 tokens, MiB"] = max(counted["vision"], counted["answer of 128"])
    if measured is not None:
        device = measured.model.device
        found = measure({name: make(measured) for name, make in works.items()}, device, warmup=1, repeats=2)
        peaks = {name: side_of.peak_mib or 0.0 for name, side_of in found.items()}
        row["measured peak with 2 tokens, MiB"] = max(peaks["vision"], peaks["answer of 2"])
        row["measured peak with 128 tokens, MiB"] = max(peaks["vision"], peaks["answer of 128"])
    return row


def goals_of(rows: Sequence[dict[str, Cell]], large: int, small: int) -> tuple[dict[str, float | None], list[Goal]]:
    """Ours at the large batch over the reference's way at the small one."""
    by_side = {(row["side"], row["batch"]): row for row in rows}
    ours, reference = by_side["ours", large], by_side["reference", small]
    ratios: dict[str, float | None] = {}
    goals = []
    for tokens in (2, 128):
        for kind in ("", "measured "):
            column = f"{kind}peak with {tokens} tokens, MiB"
            ratio = float(ours[column] or 0) / float(reference[column] or 0) if column in ours else None
            ratios[f"{kind.strip() or 'counted'}_memory_ratio_{tokens}_tokens"] = ratio
            name = f"memory with answers of {tokens} tokens, {kind.strip() or 'counted'}: ours at batch {large} / "
            goals.append(Goal(f"{name}the reference's way at batch {small}", ratio, at_most=1.0))
    return ratios, goals


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Memory above the weights, ours beside the reference's way.")
    parser.add_argument("--model", choices=[*MODELS, *ONEVISION, *MGM], default="next-7b")
    parser.add_argument("--tokens", help="a budget of benchmarks/prompts.py; default: the smallest")
    parser.add_argument("--batches", type=int, nargs=2, default=[4, 32], metavar=("REFERENCE", "OURS"))
    parser.add_argument("--device", type=torch.device, default=torch.accelerator.current_accelerator() or "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    budgets = {tokens: budget for tokens, budget in BUDGETS[family_of(args.model)].items() if budget}
    tokens = args.tokens or min(budgets, key=int)
    if tokens not in budgets or min(args.batches) < 1:
        parser.error(f"--tokens is one of {', '.join(budgets)}, --batches at least 1")
    small, large = args.batches
    dtype = getattr(torch, args.dtype)

    with torch.inference_mode():
        counted = Sides.on(META, args.model, budgets[tokens], dtype)
        measured = None if args.device.type == "cpu" else Sides.on(args.device, args.model, budgets[tokens], dtype)
        sides = [(side, batch) for side in ("reference", "ours") for batch in (small, large)]
        rows = [row_of(counted, side, batch, measured) for side, batch in sides]
    ratios, goals = goals_of(rows, large, small)
    weights = sum(parameter.numel() for parameter in counted.model.parameters()) * dtype.itemsize / MIB
    Report(
        benchmark="memory",
        title=f"Memory of {NAMES[args.model]} at {tokens} tokens",
        device=args.device,
        setting={"model": NAMES[args.model], "tokens": tokens, "compression": budgets[tokens], "dtype": args.dtype}
        | {"weights, MiB": round(weights)},
        rows=rows,
        ratios=ratios,
        goals=goals,
        notes=["An answer's columns hold prefill, keys and values, and a step behind all but one of its tokens."],
    ).tell(args.json)


if __name__ == "__main__":
    main()
