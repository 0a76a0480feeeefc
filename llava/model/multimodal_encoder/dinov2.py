"""DINOv2's vision tower (Oquab et al., TMLR 2024), trained on images alone; CLS first, no registers."""

from __future__ import annotations

from typing import Any

from llava.kinds.towers import TowerKind, register_tower


def _mlp_weights(config: Any) -> int:
    inner = int(config.hidden_size * config.mlp_ratio)
    if not config.use_swiglu_ffn:
        return 2 * config.hidden_size * inner
    return int(3 * config.hidden_size * ((int(inner * 2 / 3) + 7) // 8 * 8))  # as the largest model has it


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
        mlp_weights=_mlp_weights,
    )
)
