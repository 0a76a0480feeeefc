"""A checkpoint as haotian-liu/LLaVA reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llava.hub.formats.export_source import ExportSource
from llava.hub.formats.hf import Layout, is_local_path, main_dtype
from llava.hub.formats.llava_entries import known_to_llava, llava_config
from llava.hub.formats.llava_tokenizer import write_llava_tokenizer
from llava.hub.formats.vocabulary import drop_image_token
from llava.hub.json_file import optional_json, write_json
from llava.hub.staging import MANIFEST
from llava.kinds.towers import tower_kind
from llava.model.checkpoints.files import CheckpointError
from llava.model.checkpoints.names import LLAVA_NAMES, to_file_names

_UNFREEZE = "unfreeze_mm_vision_tower"


def write_llava(
    source: ExportSource, folder: Path, *, name: str, vision_tower: str | None = None, model_base: Path | None = None
) -> Layout:
    """Writes all files but the weights, and says which tensors belong to them.

    Args:
        source: From `open_source`; its config and tensors are changed.
        folder: Where to.
        name: Of the folder in the end; LLaVA looks at it.
        vision_tower: What `mm_vision_tower` is to say; by default what the source says.
        model_base: A folder that may hold tokenizer.model.

    Raises:
        CheckpointError: LLaVA cannot read such a model; the message names the entry or the file.
    """
    notes: list[str] = []
    language = known_to_llava(source.config, str(source.folder))
    inside = tower_goes_inside(source)
    tokenizer = source.tokenizer()
    rows = drop_image_token(source.tensors, source.config, tokenizer)
    if rows is not None:
        notes.append(
            f"The vocabulary rows {rows.first} to {rows.end - 1} ({', '.join(rows.tokens)}) were left out: LLaVA has "
            "none for the image."
        )
    entries = llava_config(source.config, main_dtype(source.tensors), str(source.folder), language)
    if not source.parts.is_llava_format and inside and not _recorded_inside(source):
        entries[_UNFREEZE] = True  # else LLaVA takes the named tower's weights for those that are here
    name_tower(entries, source.config.vision_config, vision_tower, str(source.folder), notes)
    if rows is not None and (entries.get("pad_token_id") or 0) >= rows.first:
        entries["pad_token_id"] = tokenizer.unk_token_id
    if inside and not entries.get(_UNFREEZE):
        notes.append(
            f"The weights hold a vision tower, but config.json says no {_UNFREEZE}: haotian-liu/LLaVA takes the one "
            "that mm_vision_tower names."
        )
    wanted = language.llava_folder_words
    if any(word not in name.lower() for word in wanted):
        notes.append(
            f"haotian-liu/LLaVA chooses its classes by the folder's name: let it contain {' and '.join(wanted)}."
        )
    write_json(folder / "config.json", entries)
    folders = [source.parts.tokenizer_folder, source.folder, *([model_base] if model_base else [])]
    write_llava_tokenizer(tokenizer, folders, folder, rows)
    write_json(folder / "generation_config.json", _generation(source, entries))
    own = {name: tensor for name, tensor in source.tensors.items() if inside or not name.startswith(source.tower)}
    own |= source.parts.unused
    return Layout(to_file_names(own, LLAVA_NAMES, source.tower), tuple(notes), rows)


def tower_goes_inside(source: ExportSource) -> bool:
    """Whether the weights hold the vision tower: as in the LLaVA checkpoint that it once was, else if it was tuned."""
    if source.parts.is_llava_format:
        return source.parts.has_tower
    recorded = _recorded_inside(source)
    if recorded is not None:
        return recorded
    named = getattr(source.config, "mm_vision_tower", None)
    return named is None or bool(getattr(source.config, _UNFREEZE, False))


def _recorded_inside(source: ExportSource) -> bool | None:
    """What the export noted that made the source of a LLaVA checkpoint."""
    recorded = optional_json(source.folder, MANIFEST).get("tower_inside")
    return recorded if isinstance(recorded, bool) else None


def name_tower(entries: dict[str, Any], vision: Any, given: str | None, where: str, notes: list[str]) -> None:
    """Sets `mm_vision_tower`.

    Args:
        entries: LLaVA's config.
        vision: The tower's config.
        given: What the user says; by default what stands there, or the tower of the published LLaVAs if it fits.
        where: The checkpoint, for messages.
        notes: Gets a sentence if others could not find the tower.

    Raises:
        CheckpointError: No tower is known.
    """
    named = given or entries.get("mm_vision_tower") or tower_kind(vision).published_name(vision)
    if named is None:
        raise CheckpointError(
            f"{where}: config.json does not say which CLIP its vision tower is, which haotian-liu/LLaVA needs; give "
            "its name or folder with --vision-tower"
        )
    entries["mm_vision_tower"] = named
    if is_local_path(named, Path(where)):
        notes.append(
            f"config.json: mm_vision_tower {named} is a place on this machine; others need --vision-tower NAME."
        )


def _generation(source: ExportSource, entries: dict[str, Any]) -> dict[str, Any]:
    given = optional_json(source.parts.tokenizer_folder, "generation_config.json")
    if source.parts.is_llava_format and given:
        return given
    sampling = ("do_sample", "temperature", "top_p", "top_k", "max_length", "max_new_tokens")
    ids = {name: entries.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {**ids, **{name: given[name] for name in sampling if given.get(name) is not None}}
