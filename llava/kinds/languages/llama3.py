"""Llama 3: Llama's architecture with a byte-level vocabulary and a chat format of its own."""

from __future__ import annotations

from llava.kinds.languages import LanguageKind, register_language

LLAMA_3 = register_language(
    LanguageKind(
        name="llama3",
        model_type="llama",
        template="llava_llama_3",
        vocabularies=range(128_000, 129_000),
        llava_model_types=("llava_llama",),
        is_prunable=True,
    )
)
