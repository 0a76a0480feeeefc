"""What a training run's folder and the folder to be released hold, read for the model card; nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from llava.hub.json_file import optional_json
from llava.hub.staging import MANIFEST
from llava.images.rules import cuts_tiles
from llava.kinds.families import FAMILIES, Family, family_of_llava
from llava.kinds.languages import find_language, language_of_llava
from llava.model.checkpoints.config_adapter import is_llava_format
from llava.model.checkpoints.files import CheckpointError, projector_file, read_json, weight_files
from llava.model.checkpoints.lora import adapter_base, is_adapter
from llava.model.configuration import CompressionConfig
from llava.model.tuned_range import TunedRange

Format = Literal["hf", "llava", "projector", "adapter"]

NEXT_TILES = 5
"""Tiles over which LLaVA-NeXT's tokens are counted in the paper: a base tile and a 2 x 2 grid."""

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class RunFacts:
    """What the files hold; an attribute is None where they hold nothing.

    Attributes:
        run: Folder of the training run, or the released folder itself.
        folder: What is released.
        format: What lies in `folder`: transformers' format, LLaVA's, a projector alone, adapters.
        config: `config.json` of `folder`.
        arguments: `training_args.json`.
        subset: `subset.json`, the manifest of the part of the data that was trained on.
        state: `trainer_state.json`.
        export: `export.json`, which `llava.hub.export` leaves.
    """

    run: Path
    folder: Path
    format: Format
    config: Mapping[str, Any]
    arguments: Mapping[str, Any] | None
    subset: Mapping[str, Any] | None
    state: Mapping[str, Any] | None
    export: Mapping[str, Any] | None

    @property
    def stage(self) -> str | None:
        """What was trained, by the name of the stage."""
        return None if self.arguments is None else self.arguments.get("stage")

    @property
    def compression(self) -> CompressionConfig | None:
        """The budget that the checkpoint has in its config; None for all tokens.

        Raises:
            ValueError: The entry is not one of a compression.
        """
        entries = self.config.get("compression")
        return None if entries is None else CompressionConfig.from_dict(entries)

    @property
    def tuned_for(self) -> TunedRange | None:
        """The budgets that the weights serve, where they are more than the checkpoint's own; else None.

        Raises:
            ValueError: The entry is not one of a range.
        """
        return None if self.config.get("compression_range") is None else TunedRange.from_config(self.config)

    @property
    def family(self) -> Family | None:
        """The family of the model that the config is of."""
        if is_llava_format(self.config):
            return family_of_llava(self.config)
        return FAMILIES.find(str(self.config.get("model_type")))

    @property
    def is_tiled(self) -> bool:
        """Whether images are cut into tiles, as in LLaVA-NeXT."""
        family = self.family
        if family is None or not family.is_tiled:
            return False
        return cuts_tiles(self.config.get("image_aspect_ratio") or family.aspect_ratio)

    @property
    def own_tiles(self) -> int:
        """Tiles that the model itself makes of an image that is cut into no grid."""
        family = self.family
        if family is None or family.picture_of is None:
            return 1
        return family.picture_of(SimpleNamespace(**self.config)).tiles

    @property
    def is_known_to_llava(self) -> bool:
        """Whether haotian-liu/LLaVA has the family and the language model; True where the config names neither."""
        text = self.config.get("text_config")
        if is_llava_format(self.config):
            language = language_of_llava(self.config)
        else:
            language = find_language(SimpleNamespace(**text)) if isinstance(text, Mapping) else None
        family = self.family
        return (family is None or family.known_to_llava) and (language is None or language.llava_class is not None)

    @property
    def all_tokens(self) -> int | None:
        """Visual tokens of a tile without compression."""
        vision = self.config.get("vision_config")
        if not isinstance(vision, Mapping) or not {"image_size", "patch_size"} <= set(vision):
            return None
        return int(vision["image_size"] // vision["patch_size"]) ** 2

    @property
    def base(self) -> str | None:
        """What was trained, or what a part goes on, as the run calls it: a folder or a name on the Hub."""
        if self.arguments is not None and (named := self.arguments.get("model", {}).get("model_name_or_path")):
            return str(named)
        if self.format == "adapter" and (named := adapter_base(self.folder)):
            return named
        named = self.config.get("base_model_name_or_path") or (self.export or {}).get("model_base")
        return str(named) if named else None


def read_facts(run: str | Path, folder: str | Path | None = None) -> RunFacts:
    """Reads the files of a run.

    Args:
        run: Folder of a training run, or of a checkpoint.
        folder: What is released, if that is another folder: an export of the run.

    Raises:
        CheckpointError: One of them is no checkpoint, or a file in it is damaged.
    """
    run = Path(run)
    folder = run if folder is None else Path(folder)
    for each in dict.fromkeys((run, folder)):
        if not each.is_dir():
            raise CheckpointError(f"{each}: there is no such folder")

    def optional(name: str) -> dict[str, Any] | None:
        file = next((each / name for each in (run, folder) if (each / name).is_file()), None)
        return None if file is None else read_json(file)

    config = {} if is_adapter(folder) and not (folder / "config.json").exists() else read_json(folder / "config.json")
    return RunFacts(
        run=run,
        folder=folder,
        format=_format(folder, config),
        config=config,
        arguments=optional("training_args.json"),
        subset=optional("subset.json"),
        state=optional("trainer_state.json"),
        export=optional_json(folder, MANIFEST) or None,
    )


def is_repository_form(text: str) -> bool:
    """Whether a text is of the form ORG/NAME."""
    return _REPOSITORY.fullmatch(text) is not None


def is_repository_name(text: str, run: Path | None = None) -> bool:
    """Whether a text is of the form ORG/NAME and no folder here is called so.

    Args:
        text: A folder or a name on the Hub.
        run: A run that calls something so; its folder and those around it may be what a relative path begins at.
    """
    places = [Path()] if run is None else [Path(), run.resolve(), *run.resolve().parents]
    return is_repository_form(text) and not any((place / text).exists() for place in places)


def _format(folder: Path, config: Mapping[str, Any]) -> Format:
    if is_adapter(folder):
        return "adapter"
    if weight_files(folder):
        return "hf" if "vision_config" in config else "llava"
    if projector_file(folder) is not None:
        return "projector"
    raise CheckpointError(f"{folder}: there are no weights: no model, no mm_projector.safetensors, no adapter")
