"""The registry of compressors: what each needs from the tower, which options it has, and which budgets it accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from llava.kinds import Registry
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.types import CompressedTokens, TileShape, VisionFeatures

Need = Literal["keys", "saliency", "digest"]
NEEDS: tuple[Need, ...] = ("keys", "saliency", "digest")
CompressFunction: TypeAlias = Callable[..., CompressedTokens]
CheckFunction: TypeAlias = Callable[[CompressionConfig, TileShape], None]

COMPRESSORS: Registry[Compressor] = Registry(
    "compression method",
    builtin=("llava.model.multimodal_compressor.baselines", "llava.model.multimodal_compressor.visionzip"),
)


# ----- What a compressor is ----------------------------------------------------


@dataclass(frozen=True)
class Compressor:
    """A registered compressor.

    Attributes:
        name: What `CompressionConfig.method` calls it.
        function: Maps the features of B tiles and the budget of one, and its options if it has any, to
            `budget.num_tokens` tokens a tile.
        needs: The optional fields of `VisionFeatures` that it reads; a tower computes no others.
        keeps_cls: Whether the CLS token, where the tower has one, is among the kept tokens and counts as one.
        options: A frozen dataclass of its options; its `__post_init__` refuses what is out of range.
        own_check: Refuses budgets that the tower could fill and the method cannot.
    """

    name: str
    function: CompressFunction
    needs: frozenset[Need]
    keeps_cls: bool
    options: type[Any] | None = None
    own_check: CheckFunction | None = None

    def check(self, budget: CompressionConfig, tile: TileShape) -> None:
        """Refuses a budget before any image is encoded.

        Raises:
            ValueError: It does not fit the tower (with the allowed range), an option is unknown or out of range, or
                the method itself cannot have it.
        """
        check_budget(budget, tile.num_patches, int(tile.has_cls and self.keeps_cls))
        self.options_of(budget)
        if self.own_check is not None:
            self.own_check(budget, tile)
        if budget.then is not None:
            raise ValueError(f"compression {budget}: no method prunes inside the language model yet: {budget.then}")

    def options_of(self, budget: CompressionConfig) -> Any:
        """The options that a budget sets, typed; None if the method has none.

        Raises:
            ValueError: An option is unknown, of another type, or out of range.
        """
        known = [] if self.options is None else [entry.name for entry in fields(self.options)]
        unknown = sorted(set(budget.options) - set(known))
        if unknown:
            raise ValueError(
                f"compression {budget}: {self.name} has no option {', '.join(unknown)}; it has: "
                f"{', '.join(['merge', 'seed', *known])}"
            )
        if self.options is None:
            return None
        for name, kind in get_type_hints(self.options).items():
            if name in budget.options and not _is_of(budget.options[name], kind):
                raise ValueError(f"compression {budget}: {name}={budget.options[name]!r} must be {_in_words(kind)}")
        typed = get_type_hints(self.options)
        given = {
            name: float(value) if typed.get(name) is float and isinstance(value, int) else value
            for name, value in budget.options.items()
        }
        try:
            return self.options(**given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"compression {budget}: {error}") from error

    def bind(self, budget: CompressionConfig) -> BoundCompressor:
        """The compressor with its budget and typed options; made outside of compiled graphs."""
        return BoundCompressor(self, budget, self.options_of(budget))

    def __call__(self, features: VisionFeatures, budget: CompressionConfig) -> CompressedTokens:
        """Compresses B tiles; see `BoundCompressor`."""
        return self.bind(budget)(features)


@dataclass(frozen=True)
class BoundCompressor:
    """A compressor that knows what to keep.

    Attributes:
        compressor: The method.
        budget: Of one tile.
        options: Typed; None if the method has none.
    """

    compressor: Compressor
    budget: CompressionConfig
    options: Any

    def __call__(self, features: VisionFeatures) -> CompressedTokens:
        """Compresses B tiles to K = `budget.num_tokens` tokens each.

        Raises:
            RuntimeError: The function returned another number of tokens than its budget says.
        """
        function, budget = self.compressor.function, self.budget
        compressed = function(features, budget) if self.options is None else function(features, budget, self.options)
        if compressed.tokens.shape[1] != budget.num_tokens:
            raise RuntimeError(
                f"compressor {self.compressor.name!r} returned {compressed.tokens.shape[1]} tokens for the budget "
                f"{budget}, which is {budget.num_tokens}; placeholders are sized before the image is encoded, so K "
                "must follow from the budget alone"
            )
        return compressed


# ----- Registering and looking up ----------------------------------------------


def register_compressor(
    name: str,
    *,
    needs: Iterable[Need] = (),
    keeps_cls: bool = False,
    options: type[Any] | None = None,
    check: CheckFunction | None = None,
) -> Callable[[CompressFunction], CompressFunction]:
    """Decorator that makes a function available as `compression="name:K"`.

    Args:
        name: Must be free.
        needs: Optional fields of `VisionFeatures` that the function reads: `keys`, `saliency`, `digest`.
        keeps_cls: Whether the tower's CLS token is one of the kept tokens.
        options: A frozen dataclass; the function then takes one as its third argument.
        check: Raises ValueError for a budget that the method cannot have; called when a model is loaded.

    Raises:
        ValueError: The name is taken, a need is unknown, or `options` is no dataclass or has a key that all share.
    """
    if options is not None:
        reserved = {"merge", "seed"} & {entry.name for entry in fields(options)} if is_dataclass(options) else set()
        if not is_dataclass(options) or reserved:
            problem = f"has {', '.join(sorted(reserved))}, which all methods share" if reserved else "is no dataclass"
            raise ValueError(f"compressor {name!r}: options={options!r} {problem}")
    wanted = frozenset(needs)
    unknown = wanted - set(NEEDS)
    if unknown:
        raise ValueError(f"compressor {name!r} needs {', '.join(sorted(unknown))}; towers give {', '.join(NEEDS)}")

    def register(function: CompressFunction) -> CompressFunction:
        COMPRESSORS.register(name, Compressor(name, function, wanted, keeps_cls, options, check), depth=2)
        return function

    return register


def get_compressor(name: str) -> Compressor:
    """The compressor of that name.

    Raises:
        ValueError: There is none; the message lists those there are.
    """
    return COMPRESSORS.get(name)


def compressor_of(budget: CompressionConfig) -> Compressor:
    """The compressor that a budget asks for.

    Raises:
        ValueError: It is not registered; the message names the plug-in that it came from, where that is known.
    """
    found = COMPRESSORS.find(budget.method)
    if found is None and budget.plugin:
        raise ValueError(
            f"unknown compression method {budget.method!r}: it comes from the plug-in {budget.plugin}; give it with "
            "--plugin, or in LLAVA_PLUGINS"
        )
    return COMPRESSORS.get(budget.method) if found is None else found


def with_plugin(budget: CompressionConfig) -> CompressionConfig:
    """The same budget, with the plug-in that its method comes from noted; that is what a checkpoint keeps."""
    then = None if budget.then is None else with_plugin(budget.then)
    return replace(budget, plugin=COMPRESSORS.plugin_name(budget.method) or "", then=then)


# ----- Checks ------------------------------------------------------------------


def _is_of(value: Any, kind: Any) -> bool:
    """Whether an option's value has the type that its dataclass says; types that are not known here fit any."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return any(_is_of(value, one) for one in get_args(kind))
    if kind is tuple or get_origin(kind) is tuple:
        element = get_args(kind)[0] if get_args(kind) else Any
        return isinstance(value, tuple) and all(_is_of(part, element) for part in value)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return kind not in (bool, str, NoneType) or isinstance(value, kind)


def _in_words(kind: Any) -> str:
    """What an option must be, for a message."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_in_words(one) for one in get_args(kind) if one is not NoneType)
    if kind is tuple or get_origin(kind) is tuple:
        return "a list, such as 2/5, or 2/ of one value"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    return words.get(kind) or f"of type {getattr(kind, '__name__', kind)}"


def available_compressors() -> list[str]:
    """Names of all registered compressors."""
    return COMPRESSORS.names()


def check_budget(budget: CompressionConfig, num_patches: int, num_cls: int) -> None:
    """Refuses a budget that a tile cannot fill.

    Args:
        budget: Of one tile.
        num_patches: P.
        num_cls: 1 if a CLS token is kept and counts as dominant, else 0.

    Raises:
        ValueError: With the allowed range, and for LLaVA-NeXT's totals the budget that was probably meant.
    """
    most = num_patches + num_cls
    cls_note = " (one of them the CLS token)" if num_cls else ""
    hint = (
        ". A budget holds for each tile: the totals of an image with five tiles (640 / 320 / 160) are "
        "CompressionConfig.from_total(640, tiles=5) and so on"
    )
    if budget.dominant > most:
        raise ValueError(
            f"compression {budget}: dominant={budget.dominant} is outside 1..{most}: "
            f"the tower gives {most} tokens a tile{cls_note}{hint}"
        )
    if budget.num_tokens > most:
        raise ValueError(
            f"compression {budget}: contextual={budget.contextual} is outside 0..{most - budget.dominant}: dominant="
            f"{budget.dominant} leaves {most - budget.dominant} of the tower's {most} tokens a tile to merge{hint}"
        )
