"""Finds every reason not to publish a folder, before the first byte is sent."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.hub.card.metadata import PLACEHOLDER, missing_fields
from llava.hub.card.sample import README, read_front_matter
from llava.hub.publish.leaks import Leak, find_leaks, masked_name
from llava.hub.publish.release_files import ReleaseFile, forbidden_content, names_code
from llava.hub.run_facts import is_repository_name, read_facts
from llava.model.builder import load_pretrained_model
from llava.model.checkpoints.config_adapter import hub_name

_COMMANDS = (  # that the cards of llava.hub.card show
    r"\bload_pretrained_model\(\"([^\"]+)\"",
    r"\b(?:Llava\w*ForConditionalGeneration|AutoProcessor)\.from_pretrained\(\"([^\"]+)\"",
    r"\bllava\.hub\.(?:verify|export) ([\w./-]*\w)",
    r"--model-path ([\w./-]*\w)",
)


def find_problems(
    folder: Path,
    files: Sequence[ReleaseFile],
    model_base: str | None = None,
    *,
    repo: str | None = None,
    allowed: Collection[str] = (),
) -> list[str]:
    """What is wrong, a line each; empty if the folder may be published.

    A checkpoint is loaded only if nothing else is wrong with it: its files have then been looked at.

    Args:
        folder: To be published.
        files: Of the folder, from `list_files`.
        model_base: What a projector or adapters are loaded on; by default what they name.
        repo: Where it goes, ORG/NAME; the card's commands must name it.
        allowed: Places, FILE:LINE, where a path may stand; a secret never.
    """
    problems: list[str] = []
    leaks: list[Leak] = []
    for file in files:
        shown = masked_name(file.name)
        if shown != file.name:
            problems.append(f"{shown}: a secret in the name of a file; rename it, and revoke the secret")
            continue
        reason = forbidden_content(file) or _link_out(folder, file) or names_code(file)
        if reason is not None:
            problems.append(f"{file.name}: {reason}")
        else:
            leaks += find_leaks(file)
    problems += _leaks_not_allowed(leaks, allowed)
    try:
        problems += missing_fields(folder)
        problems += _wrong_commands(folder, repo)
    except ValueError as error:
        problems.append(str(error))
    problems += _parts_of_this_machine(folder)
    return problems or _loading_error(folder, model_base)


def _link_out(folder: Path, file: ReleaseFile) -> str | None:
    """Why a link may not be published: what it leads to is not seen by who looks at the folder."""
    if folder.resolve() in file.path.resolve().parents:
        return None
    return "a link out of the folder; put the file itself there"


def _leaks_not_allowed(leaks: Sequence[Leak], allowed: Collection[str]) -> list[str]:
    """Leaks without a permission, and permissions without a path: the file has changed since they were given."""
    paths = {leak.place for leak in leaks if not leak.is_secret}
    unused = [f"--allow {place}: no absolute path is there" for place in allowed if place not in paths]
    return [str(leak) for leak in leaks if leak.is_secret or leak.place not in allowed] + unused


def _wrong_commands(folder: Path, repo: str | None) -> list[str]:
    """Commands of the card that load another repository than the one it goes to."""
    file = folder / README
    if repo is None or not file.is_file():
        return []
    bases = read_front_matter(file).get("base_model") or []
    harmless = {PLACEHOLDER, *([bases] if isinstance(bases, str) else bases)}
    text = file.read_text(encoding="utf-8")
    problems = []
    for pattern in _COMMANDS:  # a card may load others beside its own, for a comparison
        named = [match for match in re.finditer(pattern, text) if match[1] not in harmless]
        if named and repo not in {match[1] for match in named}:
            line = text.count("\n", 0, named[0].start()) + 1
            advice = "make the card anew with this --repo, or push to the other"
            problems.append(f"{README}, line {line}: it loads {named[0][1]}, and --repo is {repo}; {advice}")
    return problems


def _parts_of_this_machine(folder: Path) -> list[str]:
    """Bases and towers that the model names by a folder of this machine: others could not load it."""
    try:
        facts = read_facts(folder)
    except ValueError as error:
        return [str(error)]
    if facts.format == "llava":
        return _tower_of_this_machine(folder, facts.config)
    if facts.format not in ("projector", "adapter"):
        return []
    name = "adapter_config.json" if facts.format == "adapter" else "config.json"
    base = facts.base if facts.arguments is None else facts.config.get("base_model_name_or_path", facts.base)
    if base is None or not is_repository_name(str(base)):
        return [f"{name}: base_model_name_or_path {base!r} is no name on the Hub; others could not load this"]
    return []


def _tower_of_this_machine(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """LLaVA's format takes the vision tower's settings from the place it names, even where the weights hold it."""
    named = str(hub_name(config, config.get("mm_vision_tower") or config.get("vision_tower") or ""))
    inside = (folder / named).resolve()
    if inside.is_dir() and folder.resolve() in inside.parents:
        return []
    if is_repository_name(named):
        return []
    advice = "export again with --vision-tower ORG/NAME"
    return [f"config.json: mm_vision_tower {named!r} is no name on the Hub; others could not load this: {advice}"]


def _loading_error(folder: Path, model_base: str | None) -> list[str]:
    try:
        load_pretrained_model(folder, model_base, device="cpu", torch_dtype="auto")
    except Exception as error:  # whatever it is, others would meet it too
        return [f"the checkpoint does not load: {str(error) or type(error).__name__}"]
    return []
