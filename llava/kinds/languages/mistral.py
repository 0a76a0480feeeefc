"""Mistral 7B."""

from __future__ import annotations

from llava.kinds.languages import LanguageKind, register_language

MISTRAL = register_language(
    LanguageKind(
        name="mistral",
        model_type="mistral",
        template="mistral_instruct",
        llava_model_types=("llava_mistral",),
        llava_class="LlavaMistralForCausalLM",
        llava_folder_words=("llava", "mistral"),
        sentencepiece=True,
    )
)
