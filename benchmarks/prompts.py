"""The prompt of a benchmark question, at real length: text tokens, one image, and the budgets of the paper."""

from __future__ import annotations

from typing import Any

import torch

from llava.constants import IMAGE_TOKEN_INDEX
from llava.inference.latency import PromptBatch
from llava.model.configuration import CompressionConfig
from llava.model.image_rules import ImageRules
from llava.model.stages import before_language_model

# POPE in LLaVA's `vicuna_v1`, by Llama's tokenizer: "A chat between ... USER: " and
# "\nIs there a snowboard in the image?\nAnswer the question using a single word or phrase. ASSISTANT:".
TOKENS_BEFORE_IMAGE, TOKENS_AFTER_IMAGE = 35, 27
TEXT_TOKENS = TOKENS_BEFORE_IMAGE + TOKENS_AFTER_IMAGE
POPE_ANSWER_TOKENS = 2  # "Yes" or "No", and the end

# The paper's name of each setting -> its budget of a tile; "2880" has five tiles of 576 tokens. The paper has no row
# of LLaVA-OneVision: the same shares of its five tiles of 729, and newlines where nothing is compressed.
BUDGETS = {
    "1.5": {"576": None, "192": "visionzip:162+30", "128": "visionzip:108+20", "64": "visionzip:54+10"},
    "next": {"2880": None, "640": "visionzip:108+20", "320": "visionzip:54+10", "160": "visionzip:27+5"},
    "onevision": {"3699": None, "810": "visionzip:137+25", "405": "visionzip:68+13", "200": "visionzip:34+6"},
    "mgm": {"576": None, "192": "visionzip:162+30", "128": "visionzip:108+20", "64": "visionzip:54+10"},
}
# (w, h); two by two tiles and the base tile but in LLaVA-1.5 and Mini-Gemini
IMAGE_SIZE = {"1.5": (336, 336), "next": (672, 672), "onevision": (768, 768), "mgm": (336, 336)}
TILES = {"1.5": 1, "next": 5, "onevision": 5, "mgm": 1}


def family_of(model: str) -> str:
    """`1.5`, `next`, `onevision` or `mgm`."""
    return model.partition("-")[0]


def visual_tokens(config: Any, model: str, budget: str | None) -> int:
    """Of the image in the prompt; without compression a newline ends each of the 48 or 54 rows of tiles' patches."""
    compression = None if budget is None else CompressionConfig.parse(budget)
    return ImageRules.from_config(config).num_tokens(IMAGE_SIZE[family_of(model)], compression)


def prompt_tokens(config: Any, model: str, budget: str | None) -> int:
    """Of the whole prompt."""
    return TEXT_TOKENS + visual_tokens(config, model, budget)


def projected_tokens(config: Any, model: str, budget: str | None) -> int:
    """That the projector sees of the image: those of its tiles, newlines not among them."""
    rules, family = ImageRules.from_config(config), family_of(model)
    compression = before_language_model(None if budget is None else CompressionConfig.parse(budget))
    return TILES[family] * (rules.tokens_of_whole_tile if compression is None else compression.num_tokens)


def make_prompt(model: Any, name: str, batch: int) -> PromptBatch:
    """Random ids and pixels in the shape of POPE, on the model's device in its dtype.

    Args:
        model: That will read it.
        name: Its name in `MODELS`.
        batch: Questions, each about an image of its own.
    """
    device, family = model.device, family_of(name)
    length = TOKENS_BEFORE_IMAGE + 1 + TOKENS_AFTER_IMAGE
    ids = torch.randint(3, model.config.text_config.vocab_size, (batch, length), device=device)
    ids[:, TOKENS_BEFORE_IMAGE] = IMAGE_TOKEN_INDEX
    side = model.model.picture.side
    shape = (3, side, side) if TILES[family] == 1 else (TILES[family], 3, side, side)
    images = [torch.randn(shape, device=device, dtype=model.dtype) for _ in range(batch)]
    return PromptBatch(ids, images, [IMAGE_SIZE[family]] * batch)
