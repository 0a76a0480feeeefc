"""The published LLaVAs by name: the shapes that their config.json files say, so that counting needs no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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

SIGLIP_SO400M_384 = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,  # of 27: LLaVA-NeXT's code takes the last one and the pooling head away
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
"""google/siglip-so400m-patch14-384, as LLaVA-OneVision uses it."""

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
_QWEN2_0_5B = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
_QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
}
_QWEN2_72B = {
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 152_064,
}


@dataclass(frozen=True)
class PublishedModel:
    """A published checkpoint.

    Attributes:
        name: As people write it.
        family: `model_type` of its family.
        text: Entries of its language model's config.
        repositories: On the Hub, in LLaVA's format and in transformers'.
        text_type: `model_type` of its language model.
        vision: Entries of its tower's config.
        vision_type: `model_type` of its tower.
        layer: Of the tower, whose output is used.
        more: Further entries of its config that tell shapes.
    """

    name: str
    family: str
    text: Mapping[str, int]
    repositories: tuple[str, ...]
    text_type: str = "llama"
    vision: Mapping[str, int] = field(default_factory=lambda: CLIP_L_336)
    vision_type: str = "clip_vision_model"
    layer: int = -2
    more: Mapping[str, Any] = field(default_factory=dict)

    def config(self) -> Any:
        """A config of its shapes; what does not change a shape is left at its default."""
        from transformers import CONFIG_MAPPING

        family = FAMILIES.get(self.family)
        config = family.config()(
            vision_config=CONFIG_MAPPING[self.vision_type](**self.vision),
            text_config=CONFIG_MAPPING[self.text_type](**{"max_position_embeddings": 4096, **self.text}),
            vision_feature_layer=self.layer,
            **self.more,
        )
        config.image_aspect_ratio = family.aspect_ratio or "pad"
        return config


def _onevision(size: str, text: Mapping[str, int]) -> PublishedModel:
    """A LLaVA-OneVision; the checkpoints of its stages, `-si` and `-ov`, have the same shapes."""
    named = f"llava-onevision-qwen2-{size}"
    chat = () if size == "0.5b" else (f"lmms-lab/{named}-ov-chat", f"llava-hf/{named}-ov-chat-hf")
    stages = [each for stage in ("si", "ov") for each in (f"lmms-lab/{named}-{stage}", f"llava-hf/{named}-{stage}-hf")]
    return PublishedModel(
        f"LLaVA-OneVision-{size.upper()}",
        "llava_onevision",
        text,
        (*stages, *chat),
        text_type="qwen2",
        vision=SIGLIP_SO400M_384,
        vision_type="siglip_vision_model",
        layer=-1,
    )


def _mini_gemini(size: str, text: Mapping[str, int], *, hd: bool = False) -> PublishedModel:
    """A Mini-Gemini on Vicuna; its ConvNeXt-L is its config's default."""
    name = f"MGM-{size.upper()}{'-HD' * hd}"
    more = {"image_size_aux": 1536, "image_grid": 2, "image_global": True} if hd else {"image_size_aux": 768}
    return PublishedModel(
        name, "mgm", text, (f"YanweiLi/{name}", f"YanweiLi/{name.replace('MGM', 'Mini-Gemini')}"), more=more
    )


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
    "llava-onevision-0.5b": _onevision("0.5b", _QWEN2_0_5B),
    "llava-onevision-7b": _onevision("7b", _QWEN2_7B),
    "llava-onevision-72b": _onevision("72b", _QWEN2_72B),
    "mgm-7b": _mini_gemini("7b", VICUNA_7B),
    "mgm-13b": _mini_gemini("13b", VICUNA_13B),
    "mgm-7b-hd": _mini_gemini("7b", VICUNA_7B, hd=True),
    "mgm-13b-hd": _mini_gemini("13b", VICUNA_13B, hd=True),
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
