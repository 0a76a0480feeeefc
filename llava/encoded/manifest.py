"""What a store says of itself: its form, what made the images, and with which versions."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from llava import __version__
from llava.encoded.errors import StoreError, StoreMismatchError
from llava.encoded.layout import Layout
from llava.json_text import parse_json
from llava.model.configuration import CompressionConfig
from llava.plain_files import read_utf8

MANIFEST = "manifest.json"
_FORMAT = 1  # raised when the same entries would mean other bytes
_OUTDATED = "key.json"  # of the feature cache of before
_WEIGHTS = ("tower", "projector", "other weights")
_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Manifest:
    """The manifest of a store.

    Attributes:
        layout: In which form images are held.
        made_with: All that an image's rows depend on besides its file: `ModelFacts.parts`.
        versions: Of the packages that made the first of them; they are told, and not compared.
    """

    layout: Layout
    made_with: Mapping[str, Any]
    versions: Mapping[str, str]

    @classmethod
    def new(cls, layout: Layout, made_with: Mapping[str, Any]) -> Manifest:
        """Of a store that begins now."""
        versions = {"llava": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
        return cls(layout, json.loads(json.dumps(made_with)), versions)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder.

        Raises:
            StoreError: The folder is no store, one of an earlier or a later version, or its manifest is damaged.
        """
        file = folder / MANIFEST
        if not file.is_file():
            refuse_outdated(folder)
            raise StoreError(f"{folder}: no store of images, there is no {MANIFEST}; `llava store build` makes one")
        try:
            found = parse_json(read_utf8(file))
            number = found["format"]
            made_with, versions = found["made_with"], found["versions"]
            layout = Layout.from_json(found["layout"])
            if not isinstance(made_with, dict) or not isinstance(versions, dict):
                raise StoreError("made_with and versions must be objects")
            if made_with.get("compression") is not None:
                CompressionConfig.from_dict(made_with["compression"])
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{folder}: {MANIFEST} is damaged ({error}); use another folder") from error
        if number != _FORMAT:
            raise StoreError(f"{folder}: of format {number}, and this version reads format {_FORMAT}")
        return cls(layout, made_with, versions)

    def write(self, folder: Path) -> None:
        """Writes it into a folder, unless there is one already, which another process may have written meanwhile."""
        folder.mkdir(parents=True, exist_ok=True)
        entries = {
            "format": _FORMAT,
            "layout": self.layout.to_json(),
            "made_with": dict(self.made_with),
            "versions": dict(self.versions),
        }
        whole = folder / f".{MANIFEST}.{uuid.uuid4().hex}"
        whole.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        try:
            os.link(whole, folder / MANIFEST)  # unlike a rename, never over that of another process
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(whole, folder / MANIFEST)
        whole.unlink(missing_ok=True)

    def check(self, wanted: Mapping[str, Any], folder: Path, whose: str = "this model's") -> None:
        """Refuses what would encode images otherwise.

        Args:
            wanted: `ModelFacts.parts`, of the model that is to read or to add.
            folder: For the message.
            whose: Of which `wanted` is, for the message.

        Raises:
            StoreMismatchError: Something differs; each part is named with both values.
        """
        differing = self.differences(wanted)
        if differing:
            told = "; ".join(f"{name} is {found}, {whose} is {own}" for name, found, own in differing)
            raise StoreMismatchError(
                f"{folder}: the images are encoded otherwise: {told}. Take the store that belongs to the model, or "
                "make one in another folder: `llava store build`"
            )

    def check_layout(self, layout: Layout, folder: Path) -> None:
        """Refuses to add images in another form than those that are there.

        Raises:
            StoreMismatchError: They are of another type, or in another order.
        """
        own = self.layout
        for name, found, wanted in (("type", own.stored, layout.stored), ("nested", own.nested, layout.nested)):
            if found != wanted:
                raise StoreMismatchError(f"{folder}: {name} is {found}, asked for is {wanted}; take another folder")

    def differences(self, wanted: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """The parts that differ: name, what the store has, what is wanted; weights only where both are of one dtype."""
        own = json.loads(json.dumps(wanted))
        names = [name for name in {**own, **self.made_with} if self.made_with.get(name) != own.get(name)]
        if "dtype" in names:
            names = [name for name in names if name not in _WEIGHTS]
        if "compression" in names and self._serves(own.get("compression")):
            names.remove("compression")
        return [(name, _shown(name, self.made_with.get(name)), _shown(name, own.get(name))) for name in names]

    def _serves(self, budget: Mapping[str, Any] | None) -> bool:
        """Whether a nested store holds the choice at a budget: the same method and options, and as many or fewer."""
        stored = self.made_with.get("compression")
        if not self.layout.nested or budget is None or stored is None:
            return False
        most, asked = CompressionConfig.from_dict(stored), CompressionConfig.from_dict(budget)
        rest = [replace(each, dominant=1, contextual=0) for each in (most, asked)]
        return asked.num_tokens <= most.num_tokens and rest[0] == rest[1]


def refuse_outdated(folder: Path) -> None:
    """Refuses a folder that an earlier version has filled.

    Raises:
        StoreError: It is one.
    """
    if (folder / _OUTDATED).is_file():
        raise StoreError(
            f"{folder}: a cache of vision tokens in the form of an earlier version ({_OUTDATED}, *.bin), which is read "
            "no more; name another folder, and delete this one"
        )


def _shown(name: str, value: Any) -> str:
    if name == "compression":
        return "none" if value is None else str(CompressionConfig.from_dict(value))
    if name in _WEIGHTS and isinstance(value, str):
        return value[:12]
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
