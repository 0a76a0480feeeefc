"""DINOv2's vision tower (Oquab et al., TMLR 2024), trained on images alone; CLS first, no registers."""

from __future__ import annotations

from llava.kinds.towers import TowerKind, register_tower

DINOV2 = register_tower(
    TowerKind(
        model_type="dinov2",
        has_cls=True,
        layers="encoder.layer",
        attention_norm="norm1",
        attention="attention",
        attention_scale="scaling",
        image_processors={"BitImageProcessor": "BitImageProcessorPil"},
        file_spellings={  # the published files are older than transformers' names of today
            ".attention.attention.query.": ".attention.q_proj.",
            ".attention.attention.key.": ".attention.k_proj.",
            ".attention.attention.value.": ".attention.v_proj.",
            ".attention.output.dense.": ".attention.o_proj.",
        },
    )
)
