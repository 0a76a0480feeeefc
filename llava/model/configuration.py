"""What the compressor is asked to keep. It lives in `config.json`, so a released checkpoint knows its budget."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias

MergeRule = Literal["reference", "mean"]
_MERGE_RULES = ("reference", "mean")

# The paper splits every budget alike: 54 + 10 of 64, 108 + 20 of 128, 162 + 30 of 192.
_CONTEXTUAL_SHARE = 10 / 64

_SHORT_FORM = re.compile(r"(?P<method>[A-Za-z_][\w.-]*):(?P<dominant>\d+)(?:\+(?P<contextual>\d+))?")


@dataclass(frozen=True)
class CompressionConfig:
    """The budget of one tile, and the method that spends it.

    A LLaVA-1.5 image is one tile; a LLaVA-NeXT image is a base tile and the tiles of its grid, and every tile gets this
    budget (the paper's NeXT totals of 640 / 320 / 160 are five tiles of 128 / 64 / 32: see `from_total`).

    Attributes:
        method: Name of a registered compressor.
        dominant: Tokens kept as they are. With a tower that has a CLS token (CLIP), VisionZip's CLS counts as one of
            them: `dominant=54` keeps CLS and 53 patches.
        contextual: Tokens that hold what the dominant ones left over, merged by the similarity of their keys. Methods
            that merge nothing keep `dominant + contextual` tokens.
        merge: `"reference"` adds the mean of the merged tokens to the target, as the released VisionZip code does;
            `"mean"` averages target and merged tokens, as the paper's text says.
        seed: For methods that draw at random.
    """

    method: str = "visionzip"
    dominant: int = 54
    contextual: int = 0
    merge: MergeRule = "reference"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("dominant", "contextual", "seed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"compression.{name} must be an int, got {value!r}")
        if self.dominant < 1:
            raise ValueError(f"compression.dominant must be at least 1, got {self.dominant}")
        if self.contextual < 0:
            raise ValueError(f"compression.contextual must be at least 0, got {self.contextual}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"compression.seed is outside 0..2**63 - 1: {self.seed}")
        if self.merge not in _MERGE_RULES:
            raise ValueError(f"compression.merge must be one of {', '.join(_MERGE_RULES)}, got {self.merge!r}")
        if not isinstance(self.method, str) or not self.method:
            raise ValueError(f"compression.method must be the name of a compressor, got {self.method!r}")

    @property
    def num_tokens(self) -> int:
        """Tokens that a tile is compressed to."""
        return self.dominant + self.contextual

    @classmethod
    def parse(cls, text: str) -> CompressionConfig | None:
        """Reads the short form: `visionzip:54+10`, `random:64`, or `none`.

        Raises:
            ValueError: The text is none of these.
        """
        if text.strip().lower() == "none":
            return None
        match = _SHORT_FORM.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"compression {text!r} is not of the form METHOD:DOMINANT+CONTEXTUAL, as in 'visionzip:54+10' "
                "or 'random:64'; 'none' switches compression off"
            )
        return cls(match["method"], int(match["dominant"]), int(match["contextual"] or 0))

    @classmethod
    def from_total(cls, total: int, tiles: int = 1, method: str = "visionzip") -> CompressionConfig:
        """The budget whose `tiles` tiles add up to `total`, split between dominant and contextual as in the paper.

        The paper counts LLaVA-NeXT's tokens over five tiles (a base tile and a 2 x 2 grid): `from_total(640, tiles=5)`
        is 108 + 20 a tile. An image whose grid is 1 x 2 has three tiles, and so fewer tokens at the same budget.

        Args:
            total: Visual tokens of the whole image.
            tiles: Tiles that share them, the base tile included.
            method: Name of a registered compressor.

        Raises:
            ValueError: `total` is not a positive multiple of `tiles`.
        """
        if tiles < 1 or total < tiles or total % tiles:
            raise ValueError(
                f"a total of {total} tokens does not divide evenly over {tiles} tiles; "
                "every tile gets the same budget, so the total must be a positive multiple of the tiles"
            )
        per_tile = total // tiles
        contextual = round(per_tile * _CONTEXTUAL_SHARE)
        return cls(method, per_tile - contextual, contextual)

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> CompressionConfig:
        """Reads the `compression` entry of a config.json.

        Raises:
            ValueError: An entry is unknown.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(entries) - known)
        if unknown:
            raise ValueError(f"unknown entries in compression: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        return cls(**entries)

    def to_dict(self) -> dict[str, Any]:
        """The entry for config.json."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.method}:{self.dominant}+{self.contextual}" if self.contextual else f"{self.method}:{self.dominant}"
        )


CompressionLike: TypeAlias = CompressionConfig | Mapping[str, Any] | str | None


class Stored:
    """Marks `compression` as not given: the checkpoint's own is kept."""


STORED = Stored()


def store_compression(config: Any, compression: CompressionLike | Stored) -> None:
    """Sets a config's `compression` entry, unless none is given.

    Raises:
        TypeError: It is none of the ways to give a compression.
        ValueError: It is malformed.
    """
    if not isinstance(compression, Stored):
        budget = as_compression(compression)
        config.compression = None if budget is None else budget.to_dict()


def as_compression(value: CompressionLike) -> CompressionConfig | None:
    """Accepts every way in which a compression may be given.

    Args:
        value: `None` (vanilla), a `CompressionConfig`, its short form, or the dict of a config.json.

    Raises:
        TypeError: It is none of these.
    """
    if value is None or isinstance(value, CompressionConfig):
        return value
    if isinstance(value, str):
        return CompressionConfig.parse(value)
    if isinstance(value, Mapping):
        return CompressionConfig.from_dict(value)
    raise TypeError(f"compression must be None, a str, a dict or a CompressionConfig, got {type(value).__name__}")
