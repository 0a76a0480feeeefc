"""A seeded fraction of a data set, the same on every machine and Python, with a manifest to remake it from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def subset_indices(num_samples: int, fraction: float, seed: int) -> list[int]:
    """Draws a fraction of the indices, in ascending order.

    An index is ranked by a hash of seed and index, so nothing depends on a random generator's version, and a smaller
    fraction of the same seed is a subset of a larger one.

    Args:
        num_samples: Size of the data set.
        fraction: In (0, 1]; at least one sample is drawn.
        seed: Another seed, another subset.

    Raises:
        ValueError: `fraction` is out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"--data_fraction must be in (0, 1], got {fraction}")
    if fraction == 1:
        return list(range(num_samples))
    size = min(num_samples, max(1, round(num_samples * fraction)))

    def rank(index: int) -> bytes:
        return hashlib.sha256(f"{seed}:{index}".encode()).digest()

    return sorted(sorted(range(num_samples), key=rank)[:size])


def subset_manifest(
    data_path: str | Path, records: Sequence[dict[str, Any]], indices: Sequence[int], fraction: float, seed: int
) -> dict[str, Any]:
    """What is needed to remake a subset elsewhere: the file by name and hash, the seed, and what was drawn."""
    return {
        "data_path": Path(data_path).name,
        "sha256": hash_file(Path(data_path)),
        "num_samples": len(records),
        "fraction": fraction,
        "seed": seed,
        "num_selected": len(indices),
        "indices": list(indices),
        "ids": [records[index].get("id") for index in indices],
    }


def write_manifest(path: str | Path, manifest: dict[str, Any] | None) -> None:
    """Writes a manifest as JSON; the folder is made if it is not there. None removes the one of an earlier run."""
    path = Path(path)
    if manifest is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest, ensure_ascii=False) + "\n", encoding="utf-8")


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
