"""Recorded outputs of other methods' public code: the arrays, and a count of what was compared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llava.model.multimodal_compressor import VisionFeatures

FIXTURES = Path(__file__).parents[2] / "fixtures" / "oracle_methods"

# The fixtures are a selection; `make parity ORACLE=...` points this at the whole recording.
FOLDER = Path(os.environ.get("ORACLE_METHODS") or FIXTURES)


def load_inputs(case: str) -> dict[str, Tensor]:
    """The arrays of `inputs_<case>.npz`."""
    with np.load(FOLDER / f"inputs_{case}.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def make_features(case: str, images: slice = slice(None)) -> VisionFeatures:
    """What the seam would tell a compressor of a case: every tile is an image of its own."""
    given = load_inputs(case)
    content, attention = given["features"][images], given["cls_attention"][images]
    height, width = given["grid"].tolist()
    return VisionFeatures(
        content,
        (height, width),
        True,
        content[:, 1:],
        True,
        keys=given["keys_mean"][images],
        saliency=attention.sum(dim=1),
        cls_attention=attention,
        last_layer_qk=(given["q_last"][images], given["k_last"][images]),
        projected=given["projected"][images],
        image_index=torch.arange(len(content)),
    )


class Recording(Mapping[str, np.ndarray]):
    """The arrays of one file; it knows which have been looked at, and counts cases by method.

    Attributes:
        name: Of the file, without its ending.
        met: Cases that are equal.
        cases: Cases that were compared.
        near_ties: Names of cases that were left out: the recorded margin is too small to demand equality.
    """

    def __init__(self, name: str) -> None:
        self.name, self.met, self.cases = name, 0, 0
        self.near_ties: list[str] = []
        self.wrong: list[str] = []
        with np.load(FOLDER / f"{name}.npz") as arrays:
            self._arrays = {key: arrays[key] for key in arrays.files}
        self._seen: set[str] = set()

    def __getitem__(self, key: str) -> np.ndarray:
        self._seen.add(key)
        return self._arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def groups(self, leaf: str) -> list[str]:
        """What stands before `/leaf` in the keys, in order."""
        return [key.removesuffix(f"/{leaf}") for key in self._arrays if key.endswith(f"/{leaf}")]

    def compare(self, case: str, is_equal: bool, *, near_tie: bool = False) -> None:
        """Counts a case. One that differs is a fault, unless the recording says that it is a near tie."""
        if near_tie and not is_equal:
            self.near_ties.append(case)
            return
        self.cases += 1
        self.met += is_equal
        if not is_equal:
            self.wrong.append(case)

    def finish(self) -> None:
        """Fails unless every array was compared and every case is equal; prints the count."""
        ties = f"; near ties left out: {', '.join(self.near_ties)}" if self.near_ties else ""
        SUMMARY.append(f"{self.name}: {self.met} of {self.cases} cases met{ties}")
        missed = sorted(set(self._arrays) - self._seen)
        assert not missed, f"{self.name}: {len(missed)} arrays are compared with nothing, such as {missed[:5]}"
        assert not self.wrong, f"{self.name}: {len(self.wrong)} of {self.cases} cases differ, such as {self.wrong[:5]}"
        assert self.cases, f"{self.name}: there is no case in {FOLDER}"


SUMMARY: list[str] = []
