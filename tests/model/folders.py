"""Tiny checkpoints that plain transformers saved, with the tokenizer of the embedded model and random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
)

from llava.prompts.chat_template import chat_template
from tests.model.tiny import PINPOINTS, TEXT, sharpen, vision_config

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "playground" / "tiny" / "model"
IMAGES = ROOT / "tests" / "fixtures" / "oracle" / "images"
KINDS = ("llava", "llava_next")
HF_MODELS = {"llava": LlavaForConditionalGeneration, "llava_next": LlavaNextForConditionalGeneration}
HF_PROCESSORS = {"llava": LlavaProcessor, "llava_next": LlavaNextProcessor}
_VIEW = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
QUESTIONS = ("How many digits are there?", "Is there a red digit?", "What is the digit at the top left of the picture?")


def image(name: str = "landscape") -> Image.Image:
    with Image.open(IMAGES / f"{name}.png") as opened:
        return opened.convert("RGB")


def chat(question: str = QUESTIONS[0], *pictures: Image.Image) -> list[dict]:
    """A question about images, as `apply_chat_template` and pipelines take it."""
    parts = [{"type": "image", "image": picture} for picture in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def copy_recorded_onevision(root: Path) -> Path:
    """The recorded LLaVA-OneVision with a tokenizer of as many words, and without its stop token."""
    recorded = ROOT / "tests" / "fixtures" / "oracle_models" / "onevision"
    for name in ("tiny-llava-onevision-qwen2", "siglip-so400m-patch14-384"):
        shutil.copytree(recorded / name, root / name)
    made = root / "tiny-llava-onevision-qwen2"
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(IMAGES.parent / "tiny-llava-v1.5" / name, made)
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    config |= {"mm_vision_tower": str(root / "siglip-so400m-patch14-384"), "eos_token_id": 699}
    (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return made


def save_transformers_folder(kind: str, folder: Path) -> Path:
    """A model and its processor, of 4 x 4 patches a tile."""
    torch.manual_seed(0)
    options = {
        "vision_config": vision_config(),
        "text_config": LlamaConfig(**{**TEXT, "vocab_size": 519}),
        "image_token_index": 518,
    }
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.padding_side = "left"
    rules = {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    rules["chat_template"] = chat_template("vicuna_v1")
    if kind == "llava":
        model = LlavaForConditionalGeneration(LlavaConfig(**options, image_seq_length=16))
        processor = LlavaProcessor(CLIPImageProcessorPil(**_VIEW), tokenizer, **rules)
    else:
        model = LlavaNextForConditionalGeneration(LlavaNextConfig(**options, image_grid_pinpoints=PINPOINTS))
        views = LlavaNextImageProcessorPil(**_VIEW, image_grid_pinpoints=PINPOINTS)
        processor = LlavaNextProcessor(views, tokenizer, **rules)
    sharpen(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
