"""Projector tuning: samples a second, MFU, memory, and the minutes for a tenth of LLaVA-665K.

    python benchmarks/train_throughput.py --json throughput.json

Needs torch and transformers only, neither DeepSpeed nor flash attention, and downloads nothing. On a GPU the model is a
real-sized LLaVA-1.5-7B with random weights, made on the device; on a CPU it is scaled down, and the plain way (padded,
all logits, tower and compressor in every step) is measured beside ours. Scaled down are widths and depths, so that
tower, head and language model keep their shares of the work at 364 tokens a sample (tower 3.9 %, head 0.6 %); attention
has 5.5 % of it where the 7B's has 1.1 %.

Lengths are synthetic. The shares of the three kinds of samples are those of LLaVA-1.5's mixture (665 K: 40 K of text
only, 158 K of LLaVA-Instruct, the rest in short answers); medians and spreads of their lengths are our guess. Samples
come in random order, as `scripts/v1_5/visionzip_tune.sh` has it.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from harness import Measurement, is_h200, measure
from limits import Limits, gap, limits_of
from models import random_model
from report import Cell, Goal, Report
from transformers import CLIPVisionConfig, LlamaConfig

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.flops import Trained, step_flops
from llava.model.llava_config import LlavaConfig
from llava.model.sdpa_by_sample import attend_by_sample
from llava.model.vision_tokens import VisionTokens
from llava.train.throughput import work_of

TUNING_SAMPLES = 66_500
MINUTES = f"minutes for {TUNING_SAMPLES}"
LONGEST = 2048
MIB = 2**20

LLAMA = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "small": {
        "hidden_size": 768,
        "intermediate_size": 2064,
        "num_hidden_layers": 2,
        "num_attention_heads": 12,
        "vocab_size": 371,
    },
    "toy": {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 1},
}
CLIP = {
    "7b": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    "small": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 2},
    "toy": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1},
}

NOTES = (
    "The plain way is padded, computes all logits, and runs tower and compressor in every step.",
    "Ours is packed, computes logits at targets, and reads vision tokens from a cache.",
    "Filling the cache, one pass of the tower over each image for all runs together, is not in that time.",
    "The floor counts what each side is given: tower included for the plain way, padding for neither.",
)


@dataclass(frozen=True)
class Kind:
    """A kind of samples: its share, and text tokens drawn from a log-normal distribution."""

    share: float
    median: int
    sigma: float
    target_share: float
    has_image: bool


MIXTURE = (
    Kind(0.060, 800, 0.9, 0.7, has_image=False),
    Kind(0.237, 250, 0.5, 0.6, has_image=True),
    Kind(0.703, 180, 0.7, 0.3, has_image=True),
)


@dataclass(frozen=True)
class Side:
    """A way to train.

    Attributes:
        batch: Samples at a time.
        fast: Packed, logits at targets only, vision tokens from a cache; else padded, all logits, tower and compressor.
        checkpointing: Whether activations are computed twice rather than kept.
    """

    batch: int
    fast: bool = True
    checkpointing: bool = False


def make_model(size: str, compression: str, device: torch.device, attention: str) -> Any:
    """Random weights, frozen but for the projector, which is kept in fp32."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**CLIP[size], image_size=336, patch_size=14),
        text_config=LlamaConfig(**LLAMA[size], max_position_embeddings=LONGEST),
        vision_feature_layer=-2,
    )
    config.image_aspect_ratio = "pad"
    model = random_model(config, device, dtype, attention)
    model.set_compression(compression)
    attend_by_sample(model)  # as the trainer does with --packing
    model.requires_grad_(False)
    model.model.multi_modal_projector.float().requires_grad_(True)
    model.config.use_cache = False
    return model.train()


def make_batch(model: Any, size: int, seed: int) -> dict[str, Any]:
    """Samples of the mixture, right-padded, on the CPU: with pixels and with vision tokens."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    vocabulary, rows, labels, images = model.config.text_config.vocab_size, [], [], 0
    for kind in draw.choices(MIXTURE, weights=[kind.share for kind in MIXTURE], k=size):
        longest = LONGEST - kind.has_image * model.model.tokens_per_tile
        length = min(max(round(draw.lognormvariate(math.log(kind.median), kind.sigma)), 40), longest)
        row = torch.randint(3, vocabulary, (length,), generator=generator)
        label = row.masked_fill(torch.arange(length) < length * (1 - kind.target_share), IGNORE_INDEX)
        if kind.has_image:
            row[5] = IMAGE_TOKEN_INDEX
        rows.append(row)
        labels.append(label)
        images += kind.has_image
    tower = model.config.vision_config
    shape = (images, model.model.tokens_per_tile, tower.hidden_size)
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(rows, batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=IGNORE_INDEX),
        "attention_mask": pad([torch.ones_like(row) for row in rows], batch_first=True),
        "images": torch.randn(images, 3, tower.image_size, tower.image_size, generator=generator),
        "image_sizes": [(tower.image_size, tower.image_size)] * images,
        "vision_tokens": VisionTokens(torch.randn(shape, generator=generator).to(model.dtype), None),
    }


def given_to(side: Side, batch: dict[str, Any]) -> dict[str, Any]:
    """What a side is given of a batch."""
    dropped = "images" if side.fast else "vision_tokens"
    return {name: value for name, value in batch.items() if name != dropped}


def train_steps(model: Any, optimizer: torch.optim.Optimizer, side: Side, batches: Sequence[dict[str, Any]]) -> float:
    """An optimizer step a batch, as the trainer does it; the last loss."""
    device = model.device
    if side.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()
    loss = torch.zeros(())
    for batch in batches:
        inputs = {k: v.to(device) if hasattr(v, "to") else v for k, v in given_to(side, batch).items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
            loss = model(**inputs, packing=side.fast, loss_only=side.fast).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def row(
    model: Any, name: str, side: Side, batches: Sequence[dict[str, Any]], found: Measurement, limits: Limits
) -> dict[str, Cell]:
    """What a measurement means; memory is the absolute peak, which only a GPU's allocator tells."""
    seconds = found.ms.median / 1000
    flops = sum(
        step_flops(model.config, work_of(model, given_to(side, batch)), Trained.of(model)).total for batch in batches
    )
    samples = len(batches) * side.batch
    held = torch.cuda.memory_allocated(model.device) / MIB if model.device.type == "cuda" else None
    return {
        "side": name,
        "batch": side.batch,
        "samples a second": samples / seconds,
        "spread": f"{1000 * samples / found.ms.high:.3g} to {1000 * samples / found.ms.low:.3g}",
        MINUTES: TUNING_SAMPLES / samples * seconds / 60,
        "floor, minutes": floor_minutes(limits, flops, samples),
        "gap": gap(found.ms.median, limits.floor_ms(flops)),
        "TFLOP/s": flops / seconds / 1e12,
        "MFU": None if limits.operations is None else flops / seconds / limits.operations,
        "peak GiB": None if held is None or found.peak_mib is None else (held + found.peak_mib) / 1024,
    }


def floor_minutes(limits: Limits, flops: int, samples: int) -> float | None:
    """The least minutes for the tuning, by the operations of some of its samples."""
    floor = limits.floor_ms(flops)
    return None if floor is None else TUNING_SAMPLES / samples * floor / 60_000


def goals_of(rows: Sequence[dict[str, Cell]], ratio: float | None, size: str, device: torch.device) -> list[Goal]:
    """Of a real-sized model on an H200, and of a scaled-down one against the plain way."""
    against_plain = Goal("64 tokens, scaled down: times the plain way", ratio, at_least=2)
    at = {str(line["side"]): line for line in rows} if size == "7b" and is_h200(device) else {}
    note = "" if at else "not measured: needs an H200"

    def figure(side: str, column: str) -> float | None:
        value = at.get(side, {}).get(column)
        return float(value) if value is not None else None

    return [
        *([against_plain] if size != "7b" else []),
        Goal("7B, 64 tokens, H200: minutes for a tenth of 665K", figure("ours", MINUTES), at_most=30, note=note),
        Goal("7B, 64 tokens, H200: MFU", figure("ours", "MFU"), at_least=0.45, note=note),
        Goal("7B, 64 tokens: GiB at the peak", figure("ours, little memory", "peak GiB"), at_most=24, note=note),
    ]


def padded_share(batches: Sequence[dict[str, Any]], visual: int) -> float:
    """How much of the padded batches is padding, visual tokens included."""
    lengths = [
        batch["attention_mask"].sum(1) + (batch["input_ids"] == IMAGE_TOKEN_INDEX).sum(1) * (visual - 1)
        for batch in batches
    ]
    return 1 - float(sum(int(row.sum()) for row in lengths) / sum(int(row.max()) * len(row) for row in lengths))


def ratio_to_plain(found: Mapping[str, Measurement], samples: Mapping[str, int]) -> float:
    """How many samples ours does while the plain way does one, round by round.

    Args:
        found: Measurements of `plain` and `ours`.
        samples: In a round of each.
    """
    return found["ours"].times_as_fast_as(found["plain"]).median * samples["ours"] / samples["plain"]


def sides_for(device: torch.device, batch: int | None) -> dict[str, Side]:
    """What is compared: on a GPU our way at full speed and in little memory, on a CPU the plain way and ours."""
    if device.type == "cpu":
        return {"plain": Side(batch or 16, fast=False), "ours": Side(batch or 16)}
    fast = Side(batch or 32)
    return {"ours": fast, "ours, little memory": replace(fast, batch=4, checkpointing=True)}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Projector tuning of a LLaVA-1.5: throughput, MFU and memory.")
    parser.add_argument("--size", choices=sorted(LLAMA), help="7b on a GPU, small on a CPU")
    parser.add_argument("--compression", default="visionzip:54+10")
    parser.add_argument("--batch", type=int, help="samples at a time; 32 on a GPU, 16 on a CPU")
    parser.add_argument("--samples", type=int, help="in a round of each side; 128 on a GPU, 32 on a CPU")
    parser.add_argument("--attention", default="sdpa", help="of the language model")
    parser.add_argument("--plain", action="store_true", help="measure the plain way too, on a GPU in batches of 4")
    parser.add_argument("--device", type=torch.device, default=torch.accelerator.current_accelerator() or "cpu")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    samples = args.samples or (32 if args.device.type == "cpu" else 128)
    if args.warmup < 0 or args.repeats < 2 or samples < 1 or (args.batch or 1) < 1:
        parser.error("--warmup must be at least 0, --repeats at least 2, --samples and --batch at least 1")
    size = args.size or ("small" if args.device.type == "cpu" else "7b")

    torch.manual_seed(0)
    limits = limits_of(args.device)
    model = make_model(size, args.compression, args.device, args.attention)
    optimizer = torch.optim.AdamW(model.model.multi_modal_projector.parameters(), lr=2e-5)
    sides = sides_for(args.device, args.batch)
    if args.plain and "plain" not in sides:
        sides = {"plain": Side(4, fast=False), **sides}
    batches = {
        name: [make_batch(model, side.batch, seed) for seed in range(math.ceil(samples / side.batch))]
        for name, side in sides.items()
    }

    def work(name: str) -> Callable[[], object]:
        return lambda: train_steps(model, optimizer, sides[name], batches[name])

    works, on_cuda = {name: work(name) for name in sides}, args.device.type == "cuda"
    found = measure(works, args.device, warmup=args.warmup, repeats=args.repeats, memory=on_cuda)
    if not on_cuda:
        limits = limits.at_best(limits_of(args.device))  # other work may have held back the first measurement
    rows = [row(model, name, side, batches[name], found[name], limits) for name, side in sides.items()]
    samples_of = {name: len(batches[name]) * side.batch for name, side in sides.items()}
    ratio = ratio_to_plain(found, samples_of) if "plain" in sides else None
    padding = padded_share(batches[next(iter(sides))], model.model.tokens_per_tile)
    Report(
        "train_throughput",
        "Tuning the projector",
        args.device,
        {
            "model": f"LLaVA-1.5, size {size}, random weights",
            "compression": args.compression,
            "attention": model.model.language_model.config._attn_implementation,
            "padding of the first side": f"{padding:.1%}",
            "peak": limits.source,
        },
        rows,
        {"ratio_to_plain": ratio},
        goals_of(rows, ratio, size, args.device),
        NOTES,
    ).tell(args.json)


if __name__ == "__main__":
    main()
