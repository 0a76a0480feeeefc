"""LanguageBind's video tower: a CLIP whose layers first let the frames of a clip attend to each other."""

from __future__ import annotations

from llava.kinds.towers import TowerKind, register_tower

LANGUAGEBIND_VIDEO = register_tower(
    TowerKind(
        model_type="languagebind_video_vision_model",
        has_cls=True,
        embedding_norm="pre_layrnorm",
        layer_input="mix_frames",
        file_prefix="vision_model.",
    )
)
