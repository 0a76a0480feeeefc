"""Everything that speaks against publishing a folder, found before the first byte is sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llava.hub.card_metadata import missing_fields
from llava.hub.leaks import find_leaks
from llava.hub.release_files import ReleaseFile, forbidden_content
from llava.hub.run_facts import is_repository_name, read_facts


def find_problems(folder: Path, files: Sequence[ReleaseFile], model_base: str | None = None) -> list[str]:
    """What is wrong, a line each; empty if the folder may be published.

    A checkpoint is loaded only if nothing else is wrong with it: its files have then been looked at.

    Args:
        folder: To be published.
        files: Of the folder, from `list_files`.
        model_base: What a projector or adapters are loaded on; by default what they name.
    """
    problems = []
    for file in files:
        reason = forbidden_content(file)
        if reason is not None:
            problems.append(f"{file.name}: {reason}")
        else:
            problems += [str(leak) for leak in find_leaks(file)]
    try:
        problems += missing_fields(folder)
    except ValueError as error:
        problems.append(str(error))
    problems += _of_the_base(folder)
    return problems or _of_loading(folder, model_base)


def _of_the_base(folder: Path) -> list[str]:
    """A part of a model that names its base by a folder is of no use to others."""
    try:
        facts = read_facts(folder)
    except ValueError as error:
        return [str(error)]
    if facts.format not in ("projector", "adapter"):
        return []
    name = "adapter_config.json" if facts.format == "adapter" else "config.json"
    base = facts.base if facts.arguments is None else facts.config.get("base_model_name_or_path", facts.base)
    if base is None or not is_repository_name(str(base)):
        return [f"{name}: base_model_name_or_path {base!r} is no name on the Hub; others could not load this"]
    return []


def _of_loading(folder: Path, model_base: str | None) -> list[str]:
    from llava.model.builder import load_pretrained_model

    try:
        load_pretrained_model(folder, model_base, device="cpu", torch_dtype="auto")
    except Exception as error:  # whatever it is, others would meet it too
        return [f"the checkpoint does not load: {str(error) or type(error).__name__}"]
    return []
