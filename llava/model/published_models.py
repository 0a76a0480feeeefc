"""The published LLaVAs by name: the shapes that their config.json files say, so that counting needs no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava.kinds.families import FAMILIES

CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""openai/clip-vit-large-patch14-336."""

VICUNA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
"""lmsys/vicuna-7b-v1.5, a Llama-2-7B; vocabulary of 32,000."""

VICUNA_13B = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
"""lmsys/vicuna-13b-v1.5, a Llama-2-13B."""

_MISTRAL_7B = {**VICUNA_7B, "intermediate_size": 14336, "num_key_value_heads": 8}
_YI_34B = {
    "hidden_size": 7168,
    "intermediate_size": 20480,
    "num_hidden_layers": 60,
    "num_attention_heads": 56,
    "num_key_value_heads": 8,
    "vocab_size": 64_000,
}


@dataclass(frozen=True)
class PublishedModel:
    """A published checkpoint.

    Attributes:
        name: As people write it.
        family: `model_type` of its family.
        text: Entries of its language model's config.
        repositories: On the Hub, in LLaVA's format and in transformers'.
    """

    name: str
    family: str
    text: Mapping[str, int]
    repositories: tuple[str, ...]

    def config(self) -> Any:
        """A config of its shapes; what does not change a shape is left at its default."""
        from transformers import CLIPVisionConfig, LlamaConfig

        family = FAMILIES.get(self.family)
        config = family.config()(
            vision_config=CLIPVisionConfig(**CLIP_L_336),
            text_config=LlamaConfig(max_position_embeddings=4096, **self.text),
            vision_feature_layer=-2,
        )
        config.image_aspect_ratio = family.aspect_ratio or "pad"
        return config


PUBLISHED_MODELS: Mapping[str, PublishedModel] = {
    "llava-1.5-7b": PublishedModel(
        "LLaVA-1.5-7B", "llava", VICUNA_7B, ("liuhaotian/llava-v1.5-7b", "llava-hf/llava-1.5-7b-hf")
    ),
    "llava-1.5-13b": PublishedModel(
        "LLaVA-1.5-13B", "llava", VICUNA_13B, ("liuhaotian/llava-v1.5-13b", "llava-hf/llava-1.5-13b-hf")
    ),
    "llava-next-7b": PublishedModel(
        "LLaVA-NeXT-7B",
        "llava_next",
        VICUNA_7B,
        ("liuhaotian/llava-v1.6-vicuna-7b", "llava-hf/llava-v1.6-vicuna-7b-hf"),
    ),
    "llava-next-mistral-7b": PublishedModel(
        "LLaVA-NeXT-Mistral-7B",
        "llava_next",
        _MISTRAL_7B,
        ("liuhaotian/llava-v1.6-mistral-7b", "llava-hf/llava-v1.6-mistral-7b-hf"),
    ),
    "llava-next-13b": PublishedModel(
        "LLaVA-NeXT-13B",
        "llava_next",
        VICUNA_13B,
        ("liuhaotian/llava-v1.6-vicuna-13b", "llava-hf/llava-v1.6-vicuna-13b-hf"),
    ),
    "llava-next-34b": PublishedModel(
        "LLaVA-NeXT-34B", "llava_next", _YI_34B, ("liuhaotian/llava-v1.6-34b", "llava-hf/llava-v1.6-34b-hf")
    ),
}
"""By the short name; a Mistral is counted as the Llama of its shapes, for the operations are the same."""


def published_model(name: str) -> PublishedModel | None:
    """The published model of a short name, with or without `llava-` in front, or of a repository; None if unknown."""
    return next(
        (
            model
            for short, model in PUBLISHED_MODELS.items()
            if name in (short, short.removeprefix("llava-"), *model.repositories)
        ),
        None,
    )
