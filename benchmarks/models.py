"""LLaVA's models at their real sizes, or scaled down, with random weights made where they are used."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig

from llava.kinds.families import family_of
from llava.model.llava_config import LlavaConfig, LlavaNextConfig
from llava.model.published_models import CLIP_L_336, PUBLISHED_MODELS, VICUNA_7B, VICUNA_13B

Config = LlavaConfig | LlavaNextConfig

MODELS = ("1.5-7b", "1.5-13b", "next-7b", "next-13b")
ONEVISION = ("onevision-0.5b", "onevision-7b")  # at their real sizes only
MGM = ("mgm-7b", "mgm-13b")  # Mini-Gemini; the same
NAMES = dict(zip(MODELS, ("LLaVA-1.5-7B", "LLaVA-1.5-13B", "LLaVA-NeXT-7B", "LLaVA-NeXT-13B"), strict=True))
_PUBLISHED = {model: PUBLISHED_MODELS[f"llava-{model}"] for model in ONEVISION}
_PUBLISHED |= {model: PUBLISHED_MODELS[model] for model in MGM}
NAMES |= {model: published.name for model, published in _PUBLISHED.items()}
_VICUNA = {"7b": VICUNA_7B, "13b": VICUNA_13B}

# By how much widths and layers are divided, alike for all: towers and language models keep their shares of the work, 7B
# and 13B their proportion. `toy` only shows that everything runs.
SIZES = {"real": (1, 1), "small": (4, 8), "toy": (16, 12)}


def model_config(model: str, size: str = "real") -> Any:
    """The config of one of `MODELS` or, at the real size, `ONEVISION` and `MGM`.

    Args:
        model: A name in one of these.
        size: Of `SIZES`; heads keep their 64 or 128 channels, images their tokens, the vocabulary shrinks like both.
    """
    if model in _PUBLISHED:
        return _PUBLISHED[model].config()
    family, _, billions = model.partition("-")
    narrower, shallower = SIZES[size]
    text: dict[str, int] = {**_VICUNA[billions], "vocab_size": 32_000 // (narrower * shallower)}
    vision: dict[str, int] = dict(CLIP_L_336)
    for part in (text, vision):
        part["num_hidden_layers"] //= shallower
        for width in ("hidden_size", "intermediate_size", "num_attention_heads"):
            part[width] //= narrower
    text["max_position_embeddings"] = 4096
    kind = LlavaNextConfig if family == "next" else LlavaConfig
    config = kind(vision_config=CLIPVisionConfig(**vision), text_config=LlamaConfig(**text), vision_feature_layer=-2)
    config.image_aspect_ratio = "anyres" if family == "next" else "pad"
    return config


def random_model(config: Config, device: torch.device, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    """A model with random weights, made on the device in its dtype: no second copy anywhere.

    Args:
        config: Of `model_config`, or another.
        device: Where the weights are made.
        dtype: Theirs.
        attention: Of the language model.
    """
    kind = family_of(config).model()
    parts = {"text_config": attention, "vision_config": "sdpa"}
    with torch.device(device):
        return kind._from_config(config, dtype=dtype, attn_implementation=parts).eval()
