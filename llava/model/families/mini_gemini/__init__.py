"""Mini-Gemini (Li et al., 2024; MGM), on Vicuna: CLIP's patches mine a ConvNeXt's map of a larger picture.

Source: arXiv 2403.18814; dvlab-research/MGM 769820cb, whose checkpoints it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava.kinds.families import Family, register_family
from llava.kinds.languages import LANGUAGES
from llava.model.families.mini_gemini.operations import second_tower_flops
from llava.model.families.mini_gemini.picture import check_picture, picture_of

CLIP = "openai/clip-vit-large-patch14-336"
CONVNEXT = "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"

_OLD_WAYS = ("aux_img_fold", "aux_with_fpn")  # of code before the release; off in every published checkpoint
_OTHER_CLASSES = {"gemma": "Gemma", "mixtral": "Mixtral", "mistral": "Mistral"}
_OTHER_VOCABULARIES = {"yi": "Yi", "llama3": "Llama 3"}  # by the names of their kinds


def _fits_llava(raw: Mapping[str, Any]) -> bool:
    return bool(raw.get("mm_vision_tower_aux"))


def _refusal(raw: Mapping[str, Any]) -> str | None:
    """Why it is not supported: its language model, by its class or its vocabulary; or a way of images."""
    found = _other_language(raw)
    if found is not None:
        return (
            f"this is a Mini-Gemini with {found} inside, which is not supported; those with Vicuna are: MGM-7B, "
            "MGM-13B, MGM-7B-HD, MGM-13B-HD"
        )
    on = [name for name in _OLD_WAYS if raw.get(name)]
    if on:
        return f"{on[0]} is true, and a Mini-Gemini is supported without it, as all published ones are"
    return None


def _other_language(raw: Mapping[str, Any]) -> str | None:
    """What the language model is, if it is no Vicuna."""
    classes = " ".join(map(str, raw.get("architectures") or ())).lower()
    for word, name in _OTHER_CLASSES.items():
        if word in classes:
            return name
    if raw.get("num_local_experts"):
        return "Mixtral"
    rows = raw.get("vocab_size")
    if rows is None or rows in (LANGUAGES.get("llama").vocabularies or ()):
        return None
    of_that_size = (name for name in _OTHER_VOCABULARIES if rows in (LANGUAGES.get(name).vocabularies or ()))
    named = next((_OTHER_VOCABULARIES[name] for name in of_that_size), "another language model")
    return f"{named} (vocab_size {rows})"


def _config_entries(raw: Mapping[str, Any], vision_config: Any) -> dict[str, Any]:
    """What is said of the larger picture, checked; towers by their names on the Hub."""
    side, grid = raw.get("image_size_aux"), raw.get("image_grid") or 1
    if side is None:
        raise ValueError(
            "image_size_aux is missing: the pixels of a side of the larger picture, 768, or 1536 for the HD models"
        )
    if raw.get("mm_vision_select_feature", "patch") != "patch":
        raise ValueError(
            f"mm_vision_select_feature {raw['mm_vision_select_feature']!r}: a CLS token has no part of the larger "
            "picture to mine; only 'patch' is supported"
        )
    check_picture(side, grid, bool(raw.get("image_global")), vision_config)
    patches = (vision_config.image_size // vision_config.patch_size) ** 2
    names = {name: raw[name] for name in ("mm_vision_tower", "mm_vision_tower_aux") if raw.get(name)}
    return {
        **{name: HUB_NAMES.get(str(value).removeprefix("./").rstrip("/"), value) for name, value in names.items()},
        "image_grid": grid,
        "image_global": bool(raw.get("image_global")),
        "image_seq_length": patches * (grid**2 + int(bool(raw.get("image_global")))),
    }


HUB_NAMES = {
    "model_zoo/OpenAI/clip-vit-large-patch14-336": CLIP,
    "model_zoo/OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup": CONVNEXT,
}
"""Paths in the published configs -> what they mean."""

MINI_GEMINI = register_family(
    Family(
        name="Mini-Gemini",
        model_type="mgm",
        config_class="llava.model.families.mini_gemini.model:MiniGeminiConfig",
        model_class="llava.model.families.mini_gemini.model:MiniGeminiForConditionalGeneration",
        processor_class="llava.model.families.mini_gemini.processor:MiniGeminiProcessor",
        config_entries=_config_entries,
        fits_llava=_fits_llava,
        language="llama",
        refusal=_refusal,
        hub_names=HUB_NAMES,
        own_parts="llava.model.families.mini_gemini.files:OWN_PARTS",
        picture_of=picture_of,
        more_flops=second_tower_flops,
        vision_parts=("mining",),
        code="dvlab-research/MGM",
        aspect_ratio="pad",
        places=("tower", "projected"),  # a shrunk picture would have other patches than the map is shared out among
        keeps_cls=False,
    )
)
