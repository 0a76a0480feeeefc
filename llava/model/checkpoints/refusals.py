"""What is not supported, by its name: other families of the same lineage, and language models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava.kinds.families import FAMILIES
from llava.kinds.languages import LANGUAGES
from llava.small_files import CheckpointError

# Entries of LLaVA's format, and `model_type` of transformers', that only another family has.
_BY_ENTRY = {
    "mm_vision_tower_aux": "Mini-Gemini",
}
_BY_MODEL_TYPE = {
    "vipllava": "ViP-LLaVA",
    "llava_onevision1_5": "LLaVA-OneVision-1.5",
}


def refuse_other_families(raw: Mapping[str, Any], folder: Path) -> None:
    """Refuses a family that is known by name and not supported, unless one of a plug-in takes the config.

    Args:
        raw: A config.json of either format.
        folder: Where it lies.

    Raises:
        CheckpointError: It is of one.
    """
    found = next(((entry, name) for entry, name in _BY_ENTRY.items() if raw.get(entry)), None)
    model_type = raw.get("model_type")
    if found is None and isinstance(model_type, str) and model_type in _BY_MODEL_TYPE:
        found = f"model_type {model_type!r}", _BY_MODEL_TYPE[model_type]
    if found is None or _is_taken(raw):
        return
    entry, name = found
    raise CheckpointError(
        f"{folder}: config.json: {entry}: this is a {name}, which is not supported; there are "
        f"{', '.join(sorted(family.name for family in FAMILIES))}; one of your own is a file named with --plugin: "
        "docs/add_a_family.md"
    )


def unknown_language(model_type: Any, where: Path) -> CheckpointError:
    """What to raise where no language model is called by a `model_type`."""
    known = sorted({name for kind in LANGUAGES if kind.is_supported for name in kind.llava_model_types})
    return CheckpointError(
        f"{where}: config.json: model_type {model_type!r} is not supported; supported: {', '.join(known)}, and "
        f"transformers' {' and '.join(FAMILIES.names())}; a language model of your own is a file named with --plugin: "
        "docs/add_a_language_model.md"
    )


def _is_taken(raw: Mapping[str, Any]) -> bool:
    """Whether a family from outside this package, or one in transformers' format, takes a config."""
    if "vision_config" in raw and FAMILIES.find(str(raw.get("model_type"))) is not None:
        return True
    fitting = [family for family in FAMILIES if family.fits_llava is not None and family.fits_llava(raw)]
    return any(not family.config_class.startswith("llava.") for family in fitting)


__all__ = ["refuse_other_families", "unknown_language"]
