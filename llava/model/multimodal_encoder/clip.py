"""CLIP's vision tower, that of every published LLaVA-1.5 and LLaVA-NeXT."""

from __future__ import annotations

from llava.kinds.towers import TowerKind, register_tower

CLIP = register_tower(
    TowerKind(
        model_type="clip_vision_model",
        has_cls=True,
        embedding_norm="pre_layrnorm",
        image_processors={
            "CLIPImageProcessor": "CLIPImageProcessorPil",
            "CLIPFeatureExtractor": "CLIPImageProcessorPil",  # transformers before 4.25
        },
        file_prefix="vision_model.",
        known_to_llava=True,
        published={
            "openai/clip-vit-large-patch14-336": {
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "image_size": 336,
                "patch_size": 14,
            }
        },
    )
)
