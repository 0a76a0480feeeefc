"""SigLIP's vision tower: no CLS token, so saliency is the attention that a patch receives from all others."""

from __future__ import annotations

from llava.kinds.towers import TowerKind, register_tower

SIGLIP = register_tower(
    TowerKind(
        model_type="siglip_vision_model",
        has_cls=False,
        image_processors={"SiglipImageProcessor": "SiglipImageProcessorPil"},
        file_prefix="vision_model.",
        cut_by_next=True,
    )
)
