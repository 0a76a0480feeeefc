"""What the compressor is asked to keep. It lives in `config.json`, so a released checkpoint knows its budget."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, TypeAlias

from llava.model.adaptive_budget import AdaptiveK

logger = logging.getLogger(__name__)

MergeRule = Literal["reference", "mean"]
TileRule = Literal["equal", "area", "gain"]
PositionRule = Literal["counted", "restore"]
OptionValue: TypeAlias = bool | int | float | str | tuple[bool | int | float | str, ...]
_MERGE_RULES = ("reference", "mean")
_TILE_RULES = ("equal", "area", "gain")
_POSITION_RULES = ("counted", "restore")
_OWN_KEYS = ("merge", "seed", "tiles", "positions", "keep_cls")
_ADAPTIVE_KEYS = ("adaptive", "threshold", "floor")

SHARED_OPTIONS = _OWN_KEYS + _ADAPTIVE_KEYS
"""Keys of the short form that are entries of every budget; no method may have an option of that name."""

# The paper splits every budget alike: 54 + 10 of 64, 108 + 20 of 128, 162 + 30 of 192.
_CONTEXTUAL_SHARE = 10 / 64

_NAME = r"[A-Za-z_][\w.-]*"
_SHORT_FORM = re.compile(
    rf"(?P<method>{_NAME}):(?P<dominant>\d+)(?:\+(?P<contextual>\d+))?(?P<options>(?:,[^,|]+)*)", re.ASCII
)
_WHOLE = re.compile(r"[+-]?\d{1,30}", re.ASCII)
_LARGEST = 10**30  # longer numbers cannot be read back as whole ones
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_OPTION = re.compile(rf"({_NAME})=(.*)")
_WORDS = {"true": True, "false": False}
_EXAMPLES = "'visionzip:54+10', 'random:64,seed=1' or 'visionzip:108+20|METHOD:64'; 'none' switches compression off"


class FrozenOptions(Mapping[str, OptionValue]):
    """Options of a method: a mapping that cannot be changed, so that a budget can be a key."""

    def __init__(self, items: Mapping[str, OptionValue]) -> None:
        self._items = tuple(items.items())

    def __getitem__(self, name: str) -> OptionValue:
        return dict(self._items)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._items))

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return repr(dict(self._items))


@dataclass(frozen=True)
class CompressionConfig:
    """The budget of one tile, and the method that spends it.

    A LLaVA-1.5 image is one tile; a LLaVA-NeXT image is a base tile and the tiles of its grid, and every tile gets this
    budget (the paper's NeXT totals of 640 / 320 / 160 are five tiles of 128 / 64 / 32: see `from_total`).

    Attributes:
        method: Name of a registered compressor.
        dominant: Tokens kept as they are. With a tower that has a CLS token (CLIP), VisionZip's CLS counts as one of
            them: `dominant=54` keeps CLS and 53 patches. Of a method inside the language model: the rows of a whole
            image that the layers read on average.
        contextual: Tokens that hold what the dominant ones left over, merged by the similarity of their keys. Methods
            that merge nothing keep `dominant + contextual` tokens.
        merge: `"reference"` adds the mean of the merged tokens to the target, as the released VisionZip code does;
            `"mean"` averages target and merged tokens, as the paper's text says.
        seed: For methods that draw at random.
        tiles: How the tiles of an image share its total, which is this budget times their number: `"equal"`;
            `"area"`, by how much of the picture a tile shows, so that padding gets least; `"gain"`, by what each
            token more would add, twice the equal share at most. The total is the same.
        options: The method's own options by name: numbers, booleans, words, or tuples of these; read only.
        then: The stage that follows, inside the language model. A method for there may also stand alone.
        plugin: The plug-in that the method comes from, empty for one of this package.
        positions: Where tokens stand in the language model: `"counted"`, one behind the other, as they come; or
            `"restore"`, RESTORE's layer on top of a method that chooses: half of the tokens are the method's, the rest
            is merged into the other half, and the language model is told where and how much each token was.
        adaptive: How many tokens a tile keeps by its own picture, where the budget is the most; None for all of them.
        keep_cls: Whether the tower's CLS token reaches a method that keeps it; None: as the model's family has it.
    """

    method: str = "visionzip"
    dominant: int = 54
    contextual: int = 0
    merge: MergeRule = "reference"
    seed: int = 0
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    then: CompressionConfig | None = None
    plugin: str = field(default="", compare=False)
    tiles: TileRule = "equal"
    positions: PositionRule = "counted"
    adaptive: AdaptiveK | None = None
    keep_cls: bool | None = None

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
        if self.tiles not in _TILE_RULES:
            raise ValueError(f"compression.tiles must be one of {', '.join(_TILE_RULES)}, got {self.tiles!r}")
        if self.positions not in _POSITION_RULES:
            raise ValueError(
                f"compression.positions must be one of {', '.join(_POSITION_RULES)}, got {self.positions!r}"
            )
        if not isinstance(self.method, str) or not self.method:
            raise ValueError(f"compression.method must be the name of a compressor, got {self.method!r}")
        if self.keep_cls is not None and not isinstance(self.keep_cls, bool):
            raise TypeError(f"compression.keep_cls must be true or false, got {self.keep_cls!r}")
        if self.then is not None and (not isinstance(self.then, CompressionConfig) or self.then.then is not None):
            raise ValueError(f"compression.then must be a budget without a further stage, got {self.then!r}")
        object.__setattr__(self, "options", FrozenOptions(_checked_options(self.options)))
        if self.adaptive is not None:
            self._check_adaptive(self.adaptive)
        if not isinstance(self.plugin, str):
            raise TypeError(f"compression.plugin must be the name of a plug-in, got {self.plugin!r}")

    def __hash__(self) -> int:
        own = (self.method, self.dominant, self.contextual, self.merge, self.seed, self.tiles, self.positions)
        return hash((*own, self.keep_cls, self.options, self.then))

    def _check_adaptive(self, adaptive: AdaptiveK) -> None:
        if not isinstance(adaptive, AdaptiveK):
            raise TypeError(f"compression.adaptive must be an AdaptiveK, got {adaptive!r}")
        if adaptive.floor > self.num_tokens:
            raise ValueError(
                f"compression {self}: floor={adaptive.floor} is above {self.num_tokens}, the most that a tile keeps"
            )
        if self.tiles != "equal":
            raise ValueError(
                f"compression {self}: adaptive={adaptive.rule} gives each tile a number of its own, and tiles="
                f"{self.tiles} shares a fixed total out; leave one of them out"
            )
        if self.restores:
            raise ValueError(
                f"compression {self}: positions=restore merges to a number that is known beforehand, and adaptive= "
                "gives none; leave one of them out"
            )
        if self.then is not None:
            raise ValueError(
                f"compression {self}: what follows | inside the language model is planned for a number of rows that "
                "is known beforehand, and adaptive= gives none; leave one of them out"
            )

    @property
    def num_tokens(self) -> int:
        """Tokens that a tile is compressed to."""
        return self.dominant + self.contextual

    @property
    def restores(self) -> bool:
        """Whether the language model is told where tokens were, and how many patches each holds."""
        return self.positions == "restore"

    def with_total(self, total: int) -> CompressionConfig:
        """A fixed budget of so many tokens of one tile, split between dominant and contextual as this one is.

        Args:
            total: At least 1.
        """
        contextual = min(round(total * self.contextual / self.num_tokens), max(total - 1, 0))
        return replace(self, dominant=total - contextual, contextual=contextual, adaptive=None)

    @classmethod
    def parse(cls, text: str) -> CompressionConfig | None:
        """Reads the short form, `METHOD:D[+C][,key=value...]`, or `none`.

        The keys are `merge`, `seed`, `tiles`, `positions`, `keep_cls`, the three of `AdaptiveK` and the method's own
        options; `/` joins the values of a list (`layers=2/6`, and `layers=2/` for a list of one). `|` separates two
        stages. `str` of a config gives its short form back.

        Raises:
            ValueError: The text is not of this form.
        """
        if text.strip().lower() == "none":
            return None
        stages = [cls._parse_stage(part.strip(), text) for part in text.split("|")]
        if len(stages) > 2:
            raise ValueError(f"compression {text!r} has {len(stages)} stages; there are two at most")
        return stages[0] if len(stages) == 1 else replace(stages[0], then=stages[1])

    @classmethod
    def _parse_stage(cls, stage: str, text: str) -> CompressionConfig:
        match = _SHORT_FORM.fullmatch(stage)
        if match is None:
            raise ValueError(
                f"compression {text!r} is not of the form METHOD:DOMINANT+CONTEXTUAL,key=value, as in {_EXAMPLES}"
            )
        options: dict[str, OptionValue] = {}
        for part in filter(None, match["options"].split(",")):
            option = _OPTION.fullmatch(part.strip())
            if option is None or option[1] in options:
                problem = "is not of the form key=value" if option is None else "stands twice"
                raise ValueError(f"compression {text!r}: {part.strip()!r} {problem}, as in {_EXAMPLES}")
            options[option[1]] = _parse_value(option[2])
        method, contextual = match["method"], match["contextual"]
        own: dict[str, Any] = {name: options.pop(name) for name in _OWN_KEYS if name in options}
        adaptive: dict[str, Any] = {name: options.pop(name) for name in _ADAPTIVE_KEYS if name in options}
        try:
            if adaptive:
                own["adaptive"] = AdaptiveK.of_keys(adaptive)
            budget = cls(method, int(match["dominant"]), int(contextual or 0), **own, options=options)
        except TypeError as error:
            raise ValueError(f"compression {text!r}: {error}") from error
        if method == cls.method and contextual is None:
            _explain_split(budget.dominant)
        return budget

    @classmethod
    def from_total(
        cls, total: int, tiles: int = 1, method: str = "visionzip", *, frames: int | None = None
    ) -> CompressionConfig:
        """The budget whose `tiles` tiles add up to `total`, split between dominant and contextual as in the paper.

        The paper counts LLaVA-NeXT's tokens over five tiles (a base tile and a 2 x 2 grid): `from_total(640, tiles=5)`
        is 108 + 20 a tile. An image whose grid is 1 x 2 has three tiles, and so fewer tokens at the same budget. The
        paper's 136 of a video are those of eight frames: `from_total(136, frames=8)` is 14 + 3 a frame.

        Args:
            total: Visual tokens of the whole image or video.
            tiles: Tiles that share them, the base tile included.
            method: Name of a registered compressor.
            frames: Of a video, in place of `tiles`.

        Raises:
            ValueError: `total` is not a positive multiple of `tiles`, or `tiles` and `frames` are both given.
        """
        if frames is not None and tiles != 1:
            raise ValueError(f"from_total: tiles={tiles} and frames={frames}; a total is of an image or of a video")
        named, tiles = ("tile", tiles) if frames is None else ("frame", frames)
        if tiles < 1 or total < tiles or total % tiles:
            raise ValueError(
                f"a total of {total} tokens does not divide evenly over {tiles} {named}s; "
                f"every {named} gets the same budget, so the total must be a positive multiple of the {named}s"
            )
        per_tile = total // tiles
        contextual = round(per_tile * _CONTEXTUAL_SHARE)
        return cls(method, per_tile - contextual, contextual)

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> CompressionConfig:
        """Reads the `compression` entry of a config.json.

        Raises:
            ValueError: An entry is unknown, or `dominant` is missing.
        """
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(map(str, set(entries) - known))
        if unknown:
            raise ValueError(f"unknown entries in compression: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        if "dominant" not in entries:
            raise ValueError("compression lacks dominant, the tokens to keep; null says that nothing is compressed")
        then, adaptive = entries.get("then"), entries.get("adaptive")
        read: dict[str, Any] = {"then": cls.from_dict(then) if isinstance(then, Mapping) else then}
        read["adaptive"] = AdaptiveK.from_dict(adaptive) if isinstance(adaptive, Mapping) else adaptive
        return cls(**{**entries, **read})

    def to_dict(self) -> dict[str, Any]:
        """The entry for config.json; what is empty is left out, so that entries written before stay the same."""
        entries = asdict(self)
        for name in ("options", "then", "plugin", "adaptive"):
            if not entries[name]:
                del entries[name]
        for name in ("tiles", "positions", "keep_cls"):
            if entries[name] == getattr(CompressionConfig, name):
                del entries[name]
        if self.options:
            entries["options"] = {n: list(v) if isinstance(v, tuple) else v for n, v in self.options.items()}
        if self.then is not None:
            entries["then"] = self.then.to_dict()
        return entries

    def __str__(self) -> str:
        budget = f"{self.dominant}+{self.contextual}" if self.contextual else f"{self.dominant}"
        defaults = CompressionConfig()
        own = {name: getattr(self, name) for name in _OWN_KEYS}
        shown = {name: value for name, value in own.items() if value != getattr(defaults, name)} | dict(self.options)
        shown |= {} if self.adaptive is None else self.adaptive.to_keys()
        first = ",".join([f"{self.method}:{budget}", *(f"{name}={_format_value(shown[name])}" for name in shown)])
        return first if self.then is None else f"{first}|{self.then}"


def _checked_options(options: Any) -> dict[str, OptionValue]:
    """Options by name, sorted, lists as tuples.

    Raises:
        TypeError: They are no mapping.
        ValueError: A name or a value cannot be written in the short form.
    """
    if not isinstance(options, Mapping):
        raise TypeError(f"compression.options must be a mapping, got {options!r}")
    checked: dict[str, OptionValue] = {}
    for name in sorted(options, key=str):
        value = options[name]
        value = tuple(value) if isinstance(value, list) else value
        for part in value if isinstance(value, tuple) else (value,):
            is_word = isinstance(part, str) and re.fullmatch(_NAME, part) and part == _parse_value(part)
            is_whole = isinstance(part, int) and abs(part) < _LARGEST
            if not (is_word or is_whole or (isinstance(part, float) and math.isfinite(part))):
                raise ValueError(f"compression.options: {name}={part!r:.80} is none of a number, true, false or a word")
        if not isinstance(name, str) or re.fullmatch(_NAME, name) is None or name in SHARED_OPTIONS:
            raise ValueError(f"compression.options: {name!r} cannot be the name of an option")
        checked[name] = value
    return checked


def _parse_value(text: str) -> OptionValue:
    """A value of the short form: true, false, a whole number, a decimal one, a word, or a list of these."""
    if "/" in text:
        parts = text.removesuffix("/").split("/") if text != "/" else []
        return tuple(_parse_value(part) for part in parts)  # type: ignore[misc]
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


def _format_value(value: OptionValue) -> str:
    if isinstance(value, tuple):
        return "/".join(map(_format_value, value)) + ("/" if len(value) < 2 else "")
    return str(value).lower() if isinstance(value, bool) else str(value)


@cache
def _explain_split(total: int) -> None:
    """Says once what a total without a split means."""
    split = CompressionConfig.from_total(total)
    if split.contextual:
        logger.warning("visionzip:%d merges nothing; the paper splits as %s", total, split)


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
