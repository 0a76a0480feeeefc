"""Tiny models of transformers' own classes, with random weights, and ids for them."""

from __future__ import annotations

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,  # 4 x 4 patches
}
IMAGE_TOKEN = 98
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]  # (h, w)


def vision_config(kind: str = "clip", **changes):
    return {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}[kind](**{**VISION, **changes})


def hf_llava(kind: str = "clip", seed: int = 0, **changes) -> LlavaForConditionalGeneration:
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=vision_config(kind),
        text_config=LlamaConfig(**TEXT),
        image_token_index=IMAGE_TOKEN,
        vision_feature_select_strategy="default" if kind == "clip" else "full",
        image_seq_length=16,
        **changes,
    )
    return sharpen(LlavaForConditionalGeneration(config))


def hf_llava_next(seed: int = 0, **changes) -> LlavaNextForConditionalGeneration:
    torch.manual_seed(seed)
    config = LlavaNextConfig(
        vision_config=vision_config(),
        text_config=MistralConfig(**TEXT, sliding_window=None),
        image_token_index=IMAGE_TOKEN,
        image_grid_pinpoints=PINPOINTS,
        **changes,
    )
    return sharpen(LlavaNextForConditionalGeneration(config))


def hf_llava_onevision(seed: int = 0, bound: int = 2, **changes) -> LlavaOnevisionForConditionalGeneration:
    torch.manual_seed(seed)
    config = LlavaOnevisionConfig(
        vision_config=vision_config("siglip", vision_use_head=False),
        text_config=Qwen2Config(**TEXT),
        image_token_index=IMAGE_TOKEN,
        video_token_index=IMAGE_TOKEN - 1,
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio=f"anyres_max_{bound}",
        **changes,
    )
    return sharpen(LlavaOnevisionForConditionalGeneration(config))


def sharpen(model):
    """Spreads the weights, so that attention is not flat and arg-maxes are not ties."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
    return model.eval()


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, IMAGE_TOKEN, shape, generator=torch.Generator().manual_seed(seed))


def random_pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
