"""Tiny LLaVAs whose language models have enough layers to be pruned between them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2Config,
)

from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.anyres import TileLayout
from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from tests.model.tiny import IMAGE_TOKEN, PINPOINTS, TEXT, random_ids, random_pixels, sharpen, vision_config

LAYERS = 6
SIZES = [(50, 40), (90, 20), (28, 28), (30, 80)]  # (w, h); of the family with tiles, images of different lengths
IMAGES_PER_SAMPLE = [1, 0, 2, 1]


def save_tiny(folder: Path, family: str = "llava", decoder: str = "llama", layers: int = LAYERS) -> Path:
    torch.manual_seed(0)
    sizes = {**TEXT, "num_hidden_layers": layers}
    text = LlamaConfig(**sizes) if decoder == "llama" else Qwen2Config(**sizes, use_sliding_window=False)
    shared = {"vision_config": vision_config(), "text_config": text, "image_token_index": IMAGE_TOKEN}
    if family == "llava":
        shared |= {"vision_feature_select_strategy": "default", "image_seq_length": 16}
        model = LlavaForConditionalGeneration(LlavaConfig(**shared))
    else:
        model = LlavaNextForConditionalGeneration(LlavaNextConfig(**shared, image_grid_pinpoints=PINPOINTS))
    sharpen(model).save_pretrained(folder)
    return folder


def load_tiny(folder: Path, **options):
    return instantiate(parts_of_checkpoint(folder), dtype=torch.float32, **options).eval()


def samples(model):
    """(ids, images, sizes) of four prompts with 1, 0, 2 and 1 images."""
    layout, made, image = TileLayout.from_config(model.config), [], 0
    for index, count in enumerate(IMAGES_PER_SAMPLE):
        ids = random_ids(5 + 3 * index, seed=index)
        sizes = SIZES[image : image + count]
        for place in range(count):
            ids[1 + 2 * place] = IMAGE_TOKEN_INDEX
        images = [random_pixels(layout.num_tiles(size), 3, 28, 28, seed=image + n) for n, size in enumerate(sizes)]
        made.append((ids, images, sizes))
        image += count
    return made


def together(parts, side: str = "left"):
    """The prompts as one batch: keyword arguments of `forward` and `generate`."""
    rows = [ids for ids, _, _ in parts]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(rows, batch_first=True, padding_value=0, padding_side=side),
        "attention_mask": pad([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side),
        "images": [image for _, images, _ in parts for image in images],
        "image_sizes": [size for _, _, sizes in parts for size in sizes],
    }
