"""Qwen 1.5 and 2, of LLaVA-NeXT and LLaVA-OneVision."""

from __future__ import annotations

from llava.kinds.languages import LanguageKind, register_language

QWEN_2 = register_language(
    LanguageKind(
        name="qwen2",
        model_type="qwen2",
        template="qwen_1_5",
        next_class="LlavaQwenForCausalLM",
        llava_model_types=("llava_qwen", "llava"),  # LLaVA-NeXT's code; haotian-liu/LLaVA knows no Qwen
        is_prunable=True,
    )
)
