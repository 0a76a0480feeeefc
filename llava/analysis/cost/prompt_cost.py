"""What a prompt costs a model: operations, cache, weights, and the least time on a GPU; all counted from a config.

Operations and bytes are those of `llava.model.flops`, which a test holds against torch's own count and a real cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava.kinds.families import family_of
from llava.model.checkpoints.skeleton import expected_shapes
from llava.model.configuration import CompressionConfig
from llava.model.device_peaks import DevicePeak
from llava.model.flops import (
    decode_flops,
    decoder_parameters,
    kv_bytes,
    paper_flops,
    prefill_flops,
    vision_flops,
)
from llava.model.image_rules import ImageRules
from llava.model.multimodal_compressor import compressor_of
from llava.model.stages import before_language_model, inside_language_model, pruner_of

HALF = 2  # bytes of a number
POPE_TEXT_TOKENS = 62
"""Text tokens of a question of POPE in LLaVA's `vicuna_v1`, by Llama's tokenizer."""

Budget = CompressionConfig | int | None
"""A compression; a number of visual tokens of an image, whatever made them; or all of them."""


@dataclass(frozen=True)
class Workload:
    """What is asked of the model.

    Attributes:
        image_size: (w, h) of each image.
        images: In a prompt.
        text_tokens: Of a prompt.
        batch: Prompts at a time.
        bits: Of a weight of the language model's layers; all others, and the cache, have 16.
    """

    image_size: tuple[int, int]
    images: int = 1
    text_tokens: int = POPE_TEXT_TOKENS
    batch: int = 1
    bits: int = 16


@dataclass(frozen=True)
class Floor:
    """The least milliseconds of a batch on a GPU: no program is faster. How near one comes is measured, not counted.

    Attributes:
        device: The GPU.
        vision_ms: Tower and projector.
        prefill_ms: The language model over the prompts, up to the first token.
        decode_ms: Each token after it.
        prefill_bound: `operations` or `memory`, whichever the prefill must wait for.
    """

    device: str
    vision_ms: float
    prefill_ms: float
    decode_ms: float
    prefill_bound: str

    @property
    def first_token_ms(self) -> float:
        """Vision and prefill."""
        return self.vision_ms + self.prefill_ms


@dataclass(frozen=True)
class PromptCost:
    """What a batch of prompts costs under one budget.

    Attributes:
        budget: Its short form; `none` for all tokens, `K tokens` for a plain number.
        visual_tokens: Of a prompt, as a layer of the language model reads them on average.
        prompt_tokens: Of a prompt, before anything is dropped inside the language model.
        vision_flops: Tower and projector, two a multiply-accumulate.
        prefill_flops: The language model over the prompts.
        paper_flops: The same by VisionZip's formula, see `llava.model.flops.paper_flops`.
        decode_flops: The first token after the prompts.
        kv_bytes: Keys and values of the prompts, in half precision.
        weight_bytes: Of the whole model.
        floors: A GPU each.
    """

    budget: str
    visual_tokens: float
    prompt_tokens: int
    vision_flops: int
    prefill_flops: int
    paper_flops: int
    decode_flops: int
    kv_bytes: int
    weight_bytes: int
    floors: tuple[Floor, ...]


@dataclass(frozen=True)
class Weights:
    """How many weights a model has, exactly.

    Attributes:
        tower: The vision tower, and what a family has beside it.
        projector: The projector, and what ends rows of patches.
        language_model: The rest.
    """

    tower: int
    projector: int
    language_model: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.tower + self.projector + self.language_model


def count_weights(config: Any) -> Weights:
    """Counts the weights that a model of a config has; none is made.

    Raises:
        CheckpointError: No model can be made of the config.
    """
    shapes = expected_shapes(config, family_of(config).model(), Path("the model"))
    if config.get_text_config().tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    sums = {"tower": 0, "projector": 0, "language_model": 0}
    for name, shape in shapes.items():
        size = 1
        for extent in shape:
            size *= extent
        is_projector = name.startswith(("model.multi_modal_projector.", "model.image_newline"))
        part = "language_model" if name.startswith(("model.language_model.", "lm_head.")) else "tower"
        sums["projector" if is_projector else part] += size
    return Weights(**sums)


def paper_ladder(config: Any) -> list[Budget]:
    """All tokens, what the config asks for, and the paper's three budgets: shares of a tile, split as the paper does.

    For a tower of 576 patches 192, 128 and 64 tokens; in LLaVA-NeXT's tiles 128, 64 and 32.
    """
    rules = ImageRules.from_config(config)
    shares = (2 / 9, 1 / 9, 1 / 18) if rules.is_tiled else (1 / 3, 2 / 9, 1 / 9)
    ladder: list[Budget] = [None]
    own = getattr(config, "compression", None)
    if own is not None:
        ladder.append(CompressionConfig.from_dict(own))
    ladder += [CompressionConfig.from_total(max(1, round(share * rules.num_patches))) for share in shares]
    return list(dict.fromkeys(ladder))


def usual_image_size(config: Any) -> tuple[int, int]:
    """(w, h) of an image as the paper counts it: one tile, or two by two where images are tiled."""
    rules = ImageRules.from_config(config)
    side = rules.layout.tile_size * (2 if rules.is_tiled else 1)
    return side, side


def prompt_costs(
    config: Any, budgets: Sequence[Budget], work: Workload, devices: Sequence[DevicePeak] = ()
) -> list[PromptCost]:
    """Counts what a batch of prompts costs, under each budget.

    Args:
        config: Of a LLaVA of this package; no weights are needed.
        budgets: What is kept of an image.
        work: What is asked.
        devices: For the least times.

    Raises:
        ValueError: A budget does not fit the model.
        CheckpointError: No model can be made of the config.
    """
    rules = ImageRules.from_config(config)
    most = rules.num_tokens(work.image_size, None, beside_others=work.images > 1)
    for budget in budgets:
        if isinstance(budget, int):
            if not 1 <= budget <= most:
                raise ValueError(
                    f"{budget} visual tokens: an image of {work.image_size[0]}x{work.image_size[1]} has 1..{most}"
                )
        else:
            rules.check(budget, config.text_config)
    weights = count_weights(config)
    return [_cost(config, rules, budget, work, weights, devices) for budget in budgets]


def _cost(
    config: Any,
    rules: ImageRules,
    budget: Budget,
    work: Workload,
    weights: Weights,
    devices: Sequence[DevicePeak],
) -> PromptCost:
    beside = work.images > 1
    rows = budget if isinstance(budget, int) else rules.num_tokens(work.image_size, budget, beside_others=beside)
    per_layer = _rows_per_layer(config, budget, rows)
    lengths = [work.text_tokens + work.images * each for each in per_layer]
    prompt = work.text_tokens + work.images * rows
    layers = decoder_parameters(config) - config.text_config.hidden_size * config.text_config.vocab_size
    saved = layers * (16 - work.bits) // 8
    cost = PromptCost(
        budget=f"{budget} tokens" if isinstance(budget, int) else str(budget or "none"),
        visual_tokens=work.images * sum(per_layer) / len(per_layer),
        prompt_tokens=prompt,
        vision_flops=work.batch * work.images * _vision(config, rules, budget, work),
        prefill_flops=work.batch * prefill_flops(config, lengths),
        paper_flops=work.batch * sum(paper_flops(config, length) for length in lengths) // len(lengths),
        decode_flops=work.batch * decode_flops(config, lengths),
        kv_bytes=work.batch * kv_bytes(config, lengths, HALF),
        weight_bytes=weights.total * HALF - saved,
        floors=(),
    )
    read = decoder_parameters(config) * HALF - saved
    return replace(cost, floors=tuple(_floor(cost, device, read) for device in devices))


def _floor(cost: PromptCost, device: DevicePeak, read: int) -> Floor:
    """The least times; `read` bytes of weights are read for the prompts, and again for each further token."""
    is_bound_by_memory = device.is_bound_by_memory(cost.prefill_flops, read)
    return Floor(
        device=device.name,
        vision_ms=device.least_ms(cost.vision_flops, 0),  # a tower's few weights are read faster on any GPU here
        prefill_ms=device.least_ms(cost.prefill_flops, read),
        decode_ms=device.least_ms(cost.decode_flops, read + cost.kv_bytes),
        prefill_bound="memory" if is_bound_by_memory else "operations",
    )


def _rows_per_layer(config: Any, budget: Budget, rows: int) -> list[int]:
    """Rows of an image that each layer of the language model reads; `rows` enter the first."""
    layers = config.text_config.num_hidden_layers
    inside = None if isinstance(budget, int) else inside_language_model(budget)
    if inside is None:
        return [rows] * layers
    return pruner_of(inside).bind(inside, layers).schedule(rows).rows_per_layer


def _vision(config: Any, rules: ImageRules, budget: Budget, work: Workload) -> int:
    """Operations of tower and projector for an image; what choosing costs is not counted."""
    tiles = rules.num_tiles(work.image_size, beside_others=work.images > 1)
    if isinstance(budget, int):
        return vision_flops(config, tiles, budget)
    before = before_language_model(budget)
    if before is None:
        return vision_flops(config, tiles, tiles * rules.tokens_of_whole_tile)
    bound = compressor_of(before).bind(before, rules.tile_shape)
    patches = None if bound.grid is None else bound.grid[0] * bound.grid[1]
    projected = rules.num_patches if "projected" in bound.needs or bound.place == "projected" else 0
    if not bound.gives_projected:
        projected += bound.budget.num_tokens
    return vision_flops(config, tiles, tiles * projected, patches)
