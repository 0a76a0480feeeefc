"""What is measured of a few images at a time, on disk: a run that was killed goes on with the images that it lacks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from llava.kinds import plugin_records
from llava.locks import InUseError, open_alone
from llava.model.configuration import CompressionConfig
from llava.model.tower_alone import TowerAlone

_FORMAT = 1  # raised when the same images would give other numbers
_FOLDER = "unfinished"


@dataclass(frozen=True)
class Part:
    """What is found of a few images, n of which could be read.

    Attributes:
        shares: (layers, n, P), each patch's share of the attention.
        kept: (budgets, n), the share of the selected layer's attention on patches that are kept as they are.
        unreadable: Images that were left out, and why.
    """

    shares: NDArray[np.float32]
    kept: NDArray[np.float64]
    unreadable: list[str]


@dataclass(frozen=True)
class Parts:
    """A folder of files, each of which is there whole or not at all, named by the hash of all that it follows from.

    Attributes:
        folder: Where they are.
        key: Of the tower, its images' processing, layers and budgets.
    """

    folder: Path
    key: str

    def read(self, images: Sequence[Path]) -> Part | None:
        """What an earlier run has found of these images, as they are now; None if nothing."""
        try:
            with safe_open(self._file(images), framework="np") as stored:
                unreadable = json.loads(stored.metadata()["unreadable"])
                return Part(stored.get_tensor("shares"), stored.get_tensor("kept"), unreadable)
        except (OSError, SafetensorError):
            return None

    def write(self, images: Sequence[Path], part: Part) -> None:
        """Keeps what was found."""
        file = self._file(images)
        begun = file.with_suffix(".part")
        said = {"unreadable": json.dumps(part.unreadable)}
        begun.write_bytes(save({"shares": part.shares, "kept": part.kept}, said))
        os.replace(begun, file)

    def _file(self, images: Sequence[Path]) -> Path:
        stamps = [(str(image.absolute()), image.stat().st_size, image.stat().st_mtime_ns) for image in images]
        return self.folder / f"{_hash([self.key, stamps])}.safetensors"


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """A folder for parts, beside the results; it is gone once the block ends without an error, or if it is empty.

    Raises:
        ValueError: Another process is at work there.
    """
    place, was_there, is_done = folder / _FOLDER, folder.exists(), False
    try:
        lock = open_alone(place / "lock")
    except InUseError as error:
        raise ValueError(f"--output-dir {folder}: another process measures there; let it end, or stop it") from error
    try:
        with lock:
            yield place
        is_done = True
    finally:
        if is_done or not any(place.glob("*.safetensors")):
            shutil.rmtree(place)
            if not was_there and not any(folder.iterdir()):
                folder.rmdir()


def key_of(tower: TowerAlone, layers: Sequence[int], budgets: Sequence[CompressionConfig]) -> str:
    """A hash of what the numbers follow from, but for the images."""
    facts = {
        "format": _FORMAT,
        "tower": _weights_hash(tower),
        "config": tower.config.to_dict(),
        "layer": tower.layer,
        "image processor": tower.image_processor.to_dict(),
        "aspect ratio": tower.aspect_ratio,
        "layers": list(layers),
        "budgets": [budget.to_dict() for budget in budgets],
        "plugins": plugin_records(),
    }
    return _hash(facts)


def _weights_hash(tower: TowerAlone) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(tower.module.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _hash(facts: list[Any] | Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]
