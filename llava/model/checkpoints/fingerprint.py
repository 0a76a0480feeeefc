"""A hash of everything that a model is loaded from, so that answers of models that differ in one tensor never mix."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava.kinds.families import family_of_llava
from llava.model.checkpoints.config_adapter import is_llava_format, tower_folder
from llava.model.checkpoints.files import projector_file, read_json, resolve_checkpoint, weight_files
from llava.model.checkpoints.lora import adapter_base, is_adapter

_SUFFIXES = {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"}
_CHUNK_BYTES = 2**23
_CACHED_FROM_BYTES = 64 * 2**20


def model_fingerprint(
    model_path: str | Path, model_base: str | Path | None = None, *, cache: Path | None = None
) -> str:
    """A hash of every byte of a checkpoint's files: its own, its base's and those of a tower in a folder of its own.

    An adapter's or a projector's base counts in, and the base's own base, if that is no whole model either.

    Args:
        model_path: A folder, or a repository on the Hub.
        model_base: What a projector or adapters are put on; by default what their config names.
        cache: A JSON file in which the hashes of large files are kept, by path, size and time of change.

    Raises:
        CheckpointError: A folder is not there, or not a checkpoint.
    """
    known = _read_cache(cache)
    digest = hashlib.sha256()
    for folder in _folders(model_path, model_base):
        for file in sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file()):
            digest.update(f"file:{file.name}:{_file_hash(file, known)}".encode())
    if cache is not None and known:
        cache.parent.mkdir(parents=True, exist_ok=True)
        part = cache.with_suffix(".part")
        part.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        os.replace(part, cache)
    return digest.hexdigest()[:16]


def _folders(model_path: str | Path, model_base: str | Path | None) -> list[Path]:
    """The folders that the model is read from, the named one first; those of a family's own parts are the last."""
    first = resolve_checkpoint(model_path)
    folders = [first] if model_base is None else [first, resolve_checkpoint(model_base)]
    second: list[Path] = []
    for folder in folders:  # which grows
        # An adapter that peft has written has no config.json: all else is its base's.
        raw = read_json(folder / "config.json") if not is_adapter(folder) or (folder / "config.json").exists() else {}
        named = [_tower(folder, raw)]
        if model_base is None or folder != first:
            named.append(_base(folder, raw))
        folders += [each for each in named if each is not None and each not in folders]
        own = family_of_llava(raw).parts() if is_llava_format(raw) else None
        second += [] if own is None else own.folders(raw, folder)
    return folders + [each for each in dict.fromkeys(second) if each not in folders]


def _base(folder: Path, raw: dict[str, Any]) -> Path | None:
    """The folder of the checkpoint that an adapter or a projector says it belongs to; None for a whole model."""
    is_part = is_adapter(folder) or (not weight_files(folder) and projector_file(folder) is not None)
    named = (adapter_base(folder) if is_adapter(folder) else None) or raw.get("base_model_name_or_path")
    return resolve_checkpoint(named) if is_part and named else None


def _tower(folder: Path, raw: dict[str, Any]) -> Path | None:
    """The folder of a vision tower that the checkpoint names; transformers' format holds its tower itself."""
    is_named = "vision_config" not in raw and (raw.get("mm_vision_tower") or raw.get("vision_tower"))
    return tower_folder(raw, folder, weights=True) if is_named else None


def _file_hash(file: Path, known: dict[str, list[object]]) -> str:
    """SHA-256 of a file; that of a large one is looked up in `known`, or added to it."""
    status = file.stat()
    is_large = status.st_size >= _CACHED_FROM_BYTES
    key, state = str(file.resolve()), [status.st_size, status.st_mtime_ns]
    if is_large and key in known and known[key][:2] == state:
        return str(known[key][2])
    digest = hashlib.sha256()
    with (
        file.open("rb") as stream,
        tqdm(
            total=status.st_size, desc=f"reading {file.name}", unit="B", unit_scale=True, disable=not is_large
        ) as progress,
    ):
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            progress.update(len(chunk))
    if is_large:
        known[key] = [*state, digest.hexdigest()]
    return digest.hexdigest()


def _read_cache(cache: Path | None) -> dict[str, list[object]]:
    """What earlier runs have hashed; a damaged file costs time and nothing else."""
    try:
        content = json.loads(cache.read_text(encoding="utf-8")) if cache is not None else {}
    except (OSError, ValueError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {key: value for key, value in entries if isinstance(value, list) and len(value) == 3}
