"""What recipes need of a card and of the host, against the machines that are said to hold them; by arithmetic."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pytest

from llava.train.arguments import recipe_flags
from llava.train.recipe import find_config


@dataclass(frozen=True)
class Size:
    """What a language model's memory follows from."""

    parameters: float
    layers: int
    hidden: int
    key_value: int
    feed_forward: int

    @property
    def lora(self) -> float:
        """Parameters of rank 128 on every linear layer."""
        attention = 2 * (self.hidden + self.hidden) + 2 * (self.hidden + self.key_value)
        return self.layers * 128 * (attention + 3 * (self.hidden + self.feed_forward))


SIZES = {
    "mistral-7b": Size(7.24e9, 32, 4096, 1024, 14336),
    "7b": Size(6.74e9, 32, 4096, 4096, 11008),
    "13b": Size(13.02e9, 40, 5120, 5120, 13824),
}
TOWER, VOCABULARY, OVERHEAD, GIB = 0.304e9, 32000, 2.0, 2**30


def memory(recipe: str, hardware: str) -> tuple[float, float]:
    """GiB on a card, and on the host for what is offloaded; an estimate, not a measurement.

    Weights 2 bytes (trained ones without DeepSpeed 4), gradients 2 (4), Adam 12 (8) with its fp32 copy; a 4-bit layer
    0.55 bytes a weight. Gradient checkpointing keeps 2 bytes a layer and channel of each token; a layer made again
    holds about 8 hidden and 4 feed-forward widths, logits with their gradient 10 bytes. 2 GiB for tower and CUDA.
    """
    flags = recipe_flags([recipe, hardware])
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    size = next(size for name, size in SIZES.items() if name in recipe)
    cards = int(hardware.partition("x")[0])
    zero: dict = {"stage": 0}
    if "--deepspeed" in given:
        file = find_config(given["--deepspeed"], "deepspeed", flag="--deepspeed")
        zero = json.loads(file.read_text())["zero_optimization"]
    stage = given["--stage"]
    projector = size.hidden * (1024 + size.hidden + 2)
    trained = projector + {"finetune": size.parameters, "lora": size.lora, "qlora": size.lora}.get(stage, 0)
    frozen = 2 * TOWER + (0 if stage == "finetune" else 2 * size.parameters)
    if stage == "qlora":
        frozen = 2 * TOWER + 0.55 * size.parameters + 2 * 2 * VOCABULARY * size.hidden
    weights, gradients, optimizer = frozen + (2 if zero["stage"] else 4) * trained, 2 * trained, 12 * trained
    if not zero["stage"]:
        gradients, optimizer = 4 * trained, 8 * trained
    optimizer /= cards if zero["stage"] >= 1 else 1
    gradients /= cards if zero["stage"] >= 2 else 1
    weights /= cards if zero["stage"] >= 3 else 1
    host = 0.0
    if "offload_optimizer" in zero:
        host, optimizer = host + optimizer * cards, 0
    if "offload_param" in zero:
        host, weights = host + weights * cards, 0
    gathered = 4 * size.parameters / size.layers if zero["stage"] >= 3 else 0  # a layer, and the next one
    each_token = 2 * size.layers * size.hidden + 2 * (8 * size.hidden + 4 * size.feed_forward) + 10 * VOCABULARY
    activations = int(given["--per_device_train_batch_size"]) * int(given["--model_max_length"]) * each_token
    return (weights + gradients + optimizer + gathered + activations) / GIB + OVERHEAD, host / GIB


@pytest.mark.parametrize(
    ("recipe", "hardware", "card", "host"),
    [  # the figures in the comments of configs/hardware and in docs/training.md
        ("llava-v1.5-7b-visionzip-64", "8x80gb", 38, 0),
        ("llava-v1.6-vicuna-7b-finetune", "8x80gb", 71, 0),
        ("llava-v1.5-13b-visionzip-192", "8x80gb", 55, 0),
        ("llava-v1.5-13b-lora", "8x80gb", 57, 0),
        ("llava-v1.5-13b-finetune", "8x80gb-zero3", 42, 0),
        ("llava-v1.6-vicuna-13b-finetune", "8x80gb-zero3", 56, 0),
        ("llava-v1.6-vicuna-13b-lora", "8x80gb-zero3", 35, 0),
        ("llava-v1.6-vicuna-7b-finetune", "32x80gb", 29, 0),
        ("llava-v1.6-vicuna-13b-finetune", "32x80gb", 46, 0),
        ("llava-v1.5-7b-visionzip-64", "8x24gb", 21, 0),
        ("llava-v1.6-mistral-7b-visionzip-640", "8x24gb", 22, 0),
        ("llava-v1.5-7b-lora", "8x24gb", 22, 0),
        ("llava-v1.5-13b-visionzip-64", "8x24gb-zero3", 13, 0),
        ("llava-v1.6-vicuna-13b-visionzip-640", "8x24gb-zero3", 13, 0),
        ("llava-v1.6-vicuna-13b-lora", "8x24gb-zero3", 21, 0),
        ("llava-v1.6-vicuna-7b-finetune", "8x24gb-offload", 16, 89),
        ("llava-v1.6-vicuna-13b-finetune", "8x24gb-offload", 20, 171),
        ("llava-v1.5-7b-visionzip-64", "1x80gb", 38, 0),
        ("llava-v1.5-13b-visionzip-64", "1x80gb", 55, 0),
        ("llava-v1.5-7b-lora", "1x80gb", 43, 0),
        ("llava-v1.5-13b-lora", "1x80gb", 63, 0),
        ("llava-v1.6-vicuna-7b-lora", "1x80gb", 65, 0),
        ("llava-v1.6-vicuna-7b-finetune", "1x80gb-offload", 50, 76),
        ("llava-v1.5-13b-finetune", "1x80gb-offload", 65, 146),
        ("llava-v1.5-7b-visionzip-64", "1x24gb", 21, 0),
        ("llava-v1.6-mistral-7b-visionzip-160", "1x24gb", 22, 0),
        ("llava-v1.5-7b-qlora", "1x24gb", 17, 0),
        ("llava-v1.5-13b-visionzip-64", "1x24gb-offload", 10, 25),
        ("llava-v1.5-7b-visionzip-64", "8x32gb-fp16", 21, 0),
        ("llava-v1.5-7b-visionzip-64", "1x32gb-fp16", 21, 0),
        ("llava-v1.5-7b-qlora", "1x16gb-fp16", 13, 0),
        ("llava-v1.5-7b-visionzip-64", "8x16gb-fp16", 7, 0),
        ("llava-v1.6-vicuna-13b-visionzip-640", "8x16gb-fp16", 10, 0),
    ],
)
def test_what_is_said_to_fit_fits(recipe, hardware, card, host):
    found = memory(recipe, hardware)
    assert found == pytest.approx((card, host), abs=0.5)
    assert found[0] <= 0.95 * int(re.search(r"x(\d+)gb", hardware).group(1))


@pytest.mark.parametrize(
    ("recipe", "hardware"),
    [
        ("llava-v1.5-13b-finetune", "8x80gb"),
        ("llava-v1.6-vicuna-13b-lora", "8x80gb"),
        ("llava-v1.5-13b-visionzip-64", "8x24gb"),
        ("llava-v1.5-7b-finetune", "1x80gb"),
        ("llava-v1.5-7b-visionzip-64", "1x16gb-fp16"),
    ],
)
def test_what_is_said_not_to_fit_does_not(recipe, hardware):
    assert memory(recipe, hardware)[0] > 0.95 * int(re.search(r"x(\d+)gb", hardware).group(1))
