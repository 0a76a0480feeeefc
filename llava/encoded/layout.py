"""In which form a store holds images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

import torch

from llava.encoded.errors import StoreError

Stage: TypeAlias = Literal["tower", "projected"]
StoredType: TypeAlias = Literal["float32", "bfloat16", "float16", "int8"]
STAGES: tuple[Stage, ...] = get_args(Stage)
STORED_TYPES: tuple[StoredType, ...] = get_args(StoredType)
TORCH_TYPES = {name: getattr(torch, name) for name in STORED_TYPES}
_SCALE_BYTES = 4  # of a row in int8: float32
_POSITION_BYTES = 2


@dataclass(frozen=True)
class Layout:
    """The form of a store.

    Attributes:
        stage: `tower`: rows of the tower, compressed, tile after tile; the projector is still to come. `projected`:
            rows of the language model's width, in the order in which it reads them.
        stored: The type of the numbers on disk.
        computed: The type in which they were computed, and are given back.
        channels: C, numbers a row.
        tokens: K, rows a tile, of the stage `projected` rows an image; None where images differ.
        grid: (h, w) of the patches of a tile.
        several_tiles: Whether images are cut into tiles; else each is a single one.
        positions: Whether each row has its position, as `CompressedTokens` has it.
        num_dominant: How many of the K rows are dominant; 0 without positions.
        nested: Whether the K rows of a tile stand in the order in which the method chose them, so that the first k are
            its choice at k.
    """

    stage: Stage
    stored: StoredType
    computed: StoredType
    channels: int
    tokens: int | None
    grid: tuple[int, int]
    several_tiles: bool = False
    positions: bool = False
    num_dominant: int = 0
    nested: bool = False

    @property
    def bytes_per_row(self) -> int:
        """On disk."""
        scale = _SCALE_BYTES if self.stored == "int8" else 0
        return self.channels * TORCH_TYPES[self.stored].itemsize + scale + (_POSITION_BYTES if self.positions else 0)

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {**asdict(self), "grid": list(self.grid)}

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> Layout:
        """Reads what `to_json` gave.

        Raises:
            StoreError: An entry is missing, unknown, or not of its type.
        """
        known = {entry.name for entry in fields(cls)}
        if not isinstance(entries, Mapping) or set(entries) != known:
            raise StoreError(f"its layout has not the entries {', '.join(sorted(known))}")
        grid = entries["grid"] if isinstance(entries["grid"], list) else []
        numbers = [entries["channels"], entries["num_dominant"], *grid]
        if entries["tokens"] is not None:
            numbers.append(entries["tokens"])
        flags = [entries[name] for name in ("several_tiles", "positions", "nested")]
        is_right = (
            entries["stage"] in STAGES
            and entries["stored"] in STORED_TYPES
            and entries["computed"] in STORED_TYPES
            and len(grid) == 2
            and all(type(number) is int and number >= 0 for number in numbers)
            and all(type(flag) is bool for flag in flags)
        )
        if not is_right:
            raise StoreError(f"its layout is not what was written: {dict(entries)!r:.300}")
        return cls(**{**entries, "grid": tuple(grid)})
