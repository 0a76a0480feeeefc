"""Tiny Video-LLaVAs with random weights: 4 x 4 patches, 4 frames."""

from __future__ import annotations

import torch
from transformers import LlamaConfig

from llava.model.families.video_llava.model import VideoLlavaConfig, VideoLlavaForConditionalGeneration
from llava.model.families.video_llava.tower import LanguageBindVideoConfig
from tests.model.tiny import IMAGE_TOKEN, TEXT, VISION, sharpen, vision_config

FRAMES = 4
TOKENS = 17


def video_llava(seed: int = 0, frames: int = FRAMES, **changes) -> VideoLlavaForConditionalGeneration:
    torch.manual_seed(seed)
    config = VideoLlavaConfig(
        vision_config=vision_config(hidden_act="gelu"),
        video_config=LanguageBindVideoConfig(**VISION, hidden_act="gelu", num_frames=frames),
        text_config=LlamaConfig(**TEXT),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=16,
        **changes,
    )
    model = sharpen(VideoLlavaForConditionalGeneration(config))
    with torch.no_grad():
        for layer in model.model.video_tower.encoder.layers:
            layer.temporal_embedding.normal_()
    return model
