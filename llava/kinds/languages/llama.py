"""Llama 1 and 2 as Vicuna has them, and Yi: one architecture, told apart by the vocabulary."""

from __future__ import annotations

from llava.kinds.languages import LanguageKind, register_language

_YI_PIECES = 64_000

LLAMA = register_language(
    LanguageKind(
        name="llama",
        model_type="llama",
        template="vicuna_v1",  # what every published LLaVA-1.5 number was measured with
        vocabularies=range(_YI_PIECES),
        llava_model_types=("llava_llama", "llava"),  # the first LLaVA-1.5 checkpoints say no more
        llava_class="LlavaLlamaForCausalLM",
        sentencepiece=True,
        is_prunable=True,
    )
)

YI = register_language(
    LanguageKind(
        name="yi",  # LLaVA-1.6-34B: tuned on ChatML
        model_type="llama",
        template="chatml_direct",
        vocabularies=range(_YI_PIECES, _YI_PIECES + 256),
        llava_model_types=("llava_llama",),
        llava_class="LlavaLlamaForCausalLM",
        sentencepiece=True,
        is_prunable=True,
    )
)
