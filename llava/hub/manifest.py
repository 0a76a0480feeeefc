"""`export.json`: what an exported folder was made of, and the hash of every file that the export wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import llava
from llava.hub.formats.vocabulary import AddedRows
from llava.hub.json_file import optional_json, write_json
from llava.hub.staging import MANIFEST
from llava.model.checkpoints.files import CheckpointError, read_json

FORMAT_VERSION = 1
MADE_FROM = "made_from"
_CONFIGS = ("config.json", "adapter_config.json")


def write_manifest(folder: Path, facts: Mapping[str, Any], rows: AddedRows | None, known: Mapping[str, str]) -> None:
    """Writes `export.json` beside the files it lists.

    Args:
        folder: The exported folder.
        facts: Entries of the manifest.
        rows: Of the vocabulary, added or dropped.
        known: SHA-256 of files that were hashed as they were written.
    """
    files = {
        file.name: {"size": file.stat().st_size, "sha256": known.get(file.name) or sha256(file)}
        for file in sorted(folder.iterdir())
        if file.is_file() and file.name != MANIFEST
    }
    entries = {
        "format_version": FORMAT_VERSION,
        "created_with": f"llava-visionzip {llava.__version__}",
        **facts,
        "vocabulary_rows": None if rows is None else asdict(rows),
        "files": files,
    }
    write_json(folder / MANIFEST, entries, sort_keys=False)


def source_record(folder: Path) -> list[str]:
    """What `made_from` says of an export: a hash of its source, and if that is an export itself, of its sources too.

    Args:
        folder: The source; its weights and its config count, what lies beside them does not.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and (file.suffix in (".safetensors", ".bin") or file.name in _CONFIGS):
            digest.update(f"{file.name}:{sha256(file)}\n".encode())
    earlier = optional_json(folder, MANIFEST).get(MADE_FROM)
    return [digest.hexdigest()[:16], *(earlier if isinstance(earlier, list) else ())]


def check_made_from(folder: Path, run: Path) -> None:
    """Checks that a folder is an export of a run as it is now.

    Raises:
        CheckpointError: It is not, or the run has changed since.
    """
    if not optional_json(folder, MANIFEST).get(MADE_FROM):
        raise CheckpointError(
            f"{folder}: no {MANIFEST} says what it was made from; make it with python -m llava.hub.export {run}"
        )
    if source_record(run)[0] not in read_manifest(folder)[MADE_FROM]:
        raise CheckpointError(
            f"{folder} is no export of {run} as it is now ({MANIFEST}: {MADE_FROM}); export it anew, or name the run "
            "that it was made from"
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads `export.json`.

    Raises:
        CheckpointError: It is missing, malformed or of a later version.
    """
    entries = read_json(folder / MANIFEST)
    version = entries.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{folder / MANIFEST}: format_version {version!r} is unknown; this release knows 1")
    if not isinstance(entries.get("files"), dict):
        raise CheckpointError(f"{folder / MANIFEST}: files is not an object")
    return entries


def refresh_hashes(folder: Path) -> None:
    """Brings the manifest up to date with listed files that were changed on purpose.

    Raises:
        CheckpointError: There is no manifest, or a file that it lists is missing.
    """
    entries = read_manifest(folder)
    for name in entries["files"]:
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, which {MANIFEST} lists; put it back, or export anew")
        entries["files"][name] = {"size": file.stat().st_size, "sha256": sha256(file)}
    write_json(folder / MANIFEST, entries, sort_keys=False)


def damaged_files(folder: Path) -> list[str]:
    """What is wrong with the files that the manifest lists: a line each, empty if they are as they were written.

    Raises:
        CheckpointError: There is no manifest.
    """
    problems = []
    for name, facts in read_manifest(folder)["files"].items():
        file = folder / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != facts["size"]:
            problems.append(f"{name} has {file.stat().st_size} bytes, {facts['size']} were written")
        elif sha256(file) != facts["sha256"]:
            problems.append(f"{name} has another SHA-256 than what was written")
    return problems


def sha256(file: Path) -> str:
    """The SHA-256 of a file of any size."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
