"""What a prompt costs, as text, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llava.analysis.cost.prompt_cost import PromptCost, Weights, Workload
from llava.model.device_peaks import DevicePeak
from llava.results.words import tokens_text

TERA, GIGA, MIB, GIB = 1e12, 1e9, 2**20, 2**30
LOWER_BOUND = (
    "Least times are lower bounds: operations over the GPU's peak, or bytes over its bandwidth, whichever is longer. "
    "A real run takes longer."
)

Table = Callable[[Sequence[Sequence[str]]], str]


@dataclass(frozen=True)
class ModelCost:
    """All that is told of a model.

    Attributes:
        name: As it was given.
        weights: How many it has.
        work: What it is asked.
        costs: A budget each.
        whole: The same with all tokens.
    """

    name: str
    weights: Weights
    work: Workload
    costs: tuple[PromptCost, ...]
    whole: PromptCost

    def times_less(self, cost: PromptCost) -> float:
        """How many times fewer operations the language model does over the prompt than with all tokens."""
        return self.whole.prefill_flops / cost.prefill_flops


def to_text(model: ModelCost, devices: Sequence[DevicePeak], table: Table) -> str:
    """The tables of a model, under lines that say what was counted.

    Args:
        model: What is told.
        devices: Whose least times stand in it.
        table: Makes text of a table's cells, the heading first.
    """
    parts = ["\n".join(_about(model)), table(_counted(model))]
    for number, device in enumerate(devices):
        about = f"Least ms on {device.name} ({device.tflops:g} TFLOP/s, {device.terabytes:g} TB/s; {device.sheet}):"
        parts += [about, table(_least(model.costs, number))]
    return "\n\n".join([*parts, LOWER_BOUND] if devices else parts)


def to_json(models: Sequence[ModelCost], devices: Sequence[DevicePeak]) -> dict[str, Any]:
    """All figures, in plain units: operations, bytes, milliseconds."""
    return {
        "note": LOWER_BOUND,
        "devices": [asdict(device) for device in devices],
        "models": [
            {
                "model": model.name,
                "weights": {**asdict(model.weights), "total": model.weights.total},
                "prompt": asdict(model.work),
                "costs": [{**_entry(cost), "times_less": model.times_less(cost)} for cost in model.costs],
            }
            for model in models
        ],
    }


def _entry(cost: PromptCost) -> dict[str, Any]:
    entries = asdict(cost)
    entries["floors"] = [
        {**asdict(floor), "first_token_ms": floor.first_token_ms, "kind": "lower bound"} for floor in cost.floors
    ]
    return entries


def _about(model: ModelCost) -> list[str]:
    weights, work = model.weights, model.work
    size = f"{work.image_size[0]}x{work.image_size[1]}"
    images = f"an image of {size}" if work.images == 1 else f"{work.images} images of {size}"
    several = "" if work.batch == 1 else f" All figures are of a batch of {work.batch} prompts."
    bits = (
        "16 bits each"
        if work.bits == 16
        else f"those of the language model's layers in {work.bits} bits, scales not counted"
    )
    return [
        f"{model.name}: {weights.total:,} weights (tower {weights.tower:,}, projector {weights.projector:,}, language "
        f"model {weights.language_model:,}), {bits}.",
        "",
        f"Prompt: {work.text_tokens} text tokens and {images}.{several}",
    ]


def _counted(model: ModelCost) -> list[list[str]]:
    head = ["compression", "visual", "prompt", "vision TFLOP", "prefill TFLOP", "times less", "paper's TFLOP"]
    head += ["decode GFLOP", "KV MiB", "weights + KV GiB"]
    return [
        head,
        *(
            [
                cost.budget,
                tokens_text(cost.visual_tokens),
                str(cost.prompt_tokens),
                f"{cost.vision_flops / TERA:.3g}",
                f"{cost.prefill_flops / TERA:.3g}",
                f"{model.times_less(cost):.3g}",
                f"{cost.paper_flops / TERA:.3g}",
                f"{cost.decode_flops / GIGA:.3g}",
                f"{cost.kv_bytes / MIB:,.0f}",
                f"{(cost.weight_bytes + cost.kv_bytes) / GIB:.2f}",
            ]
            for cost in model.costs
        ),
    ]


def _least(costs: Sequence[PromptCost], number: int) -> list[list[str]]:
    rows = [["compression", "vision", "prefill", "prefill waits for", "first token", "each further token"]]
    for cost in costs:
        floor = cost.floors[number]
        times = (floor.vision_ms, floor.prefill_ms, floor.first_token_ms, floor.decode_ms)
        vision, prefill, first, decode = (f"{ms:.3g}" for ms in times)
        rows.append([cost.budget, vision, prefill, floor.prefill_bound, first, decode])
    return rows
